"""The servers that tests of every kind run against, and what hears storage change."""

pytest_plugins = [
    "support.audit",
    "support.seaweedfs",
    "support.ministack",
    "support.postgres",
    "support.site",
    "support.trees",
]
