"""Where settings come from: the command line, else the environment, else these defaults."""

from __future__ import annotations

import os
import re

URL = "AOTCACHE_URL"
TOKEN = "AOTCACHE_TOKEN"  # noqa: S105 (the name of a variable)
TOKEN_FILE = "AOTCACHE_TOKEN_FILE"  # noqa: S105 (the name of a variable)
STORAGE_URL = "AOTCACHE_STORAGE_URL"
TRANSFER = "AOTCACHE_TRANSFER"
NAMESPACE = "AOTCACHE_NAMESPACE"
TRUST = "AOTCACHE_TRUST"
SIGNING_KEY = "AOTCACHE_SIGNING_KEY"
TRUSTED_KEYS = "AOTCACHE_TRUSTED_KEYS"
CACHE_ROOT = "VLLM_CACHE_ROOT"
DEADLINE = "AOTCACHE_DEADLINE"
WAIT = "AOTCACHE_WAIT"
DISABLE = "AOTCACHE_DISABLE"
ANY_RECIPE = "AOTCACHE_ANY_RECIPE"
ALLOW_SECRETS = "AOTCACHE_ALLOW_SECRETS"
PUBLISH = "AOTCACHE_PUBLISH"

# How packs travel, see sync/connect.py.
AUTO, DIRECT, PRESIGNED, PROXY = "auto", "direct", "presigned", "proxy"
TRANSFERS = (AUTO, DIRECT, PRESIGNED, PROXY)

DEFAULT_URL = "http://127.0.0.1:8750"
DEFAULT_DEADLINE = 30.0
DEFAULT_WAIT = 0.0
LINGER = 180.0  # seconds that what others wait for may take from its compile to its publish


def is_on(value: str | None) -> bool:
    """Whether a switch is on: set, and not to one of the words for off."""
    return (value or "").strip().lower() not in ("", "0", "false", "no", "off")


# An author is no authorization.
_SECRET = re.compile("KEY|TOKEN|SECRET|PASS|PWD|AUTH(?!OR(?!I))|CREDENTIAL")


def is_secret(name: str) -> bool:
    """Whether the value of this variable, anybody's, is told to nobody. A shell's PWD and OLDPWD
    are directories."""
    return name not in ("PWD", "OLDPWD") and _SECRET.search(name.upper()) is not None


def config_file(name: str) -> str:
    """A file of ours in the user's configuration directory."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(base, "aotcache", name)


def default_cache_root() -> str:
    """vLLM's own default where VLLM_CACHE_ROOT is not set (vllm/envs.py)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "vllm")
