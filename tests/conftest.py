"""The servers that tests of every kind run against, what hears storage change, and real vLLM."""

pytest_plugins = [
    "support.audit",
    "support.fault_table",
    "support.seaweedfs",
    "support.ministack",
    "support.azurite",
    "support.fake_gcs",
    "support.postgres",
    "support.site",
    "support.trees",
    "support.vllm",
    "support.vllm_site",
    "support.images",
    "support.guided",
]
