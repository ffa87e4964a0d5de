"""The servers that tests of every kind run against, what hears storage change, and real vLLM."""

pytest_plugins = [
    "support.audit",
    "support.seaweedfs",
    "support.ministack",
    "support.postgres",
    "support.site",
    "support.trees",
    "support.vllm",
    "support.vllm_site",
    "support.images",
    "support.guided",
]
