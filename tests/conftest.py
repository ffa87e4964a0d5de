"""The servers that tests of every kind run against, what hears storage change, and real vLLM."""

from hypothesis import settings

# A busy machine is no failure: examples are bounded in number, tests in time as a whole.
settings.register_profile("aotcache", deadline=None)
settings.load_profile("aotcache")

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
