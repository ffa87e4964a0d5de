"""What an engine loads of a part: two generations that differ only in other files fail alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from posixpath import basename

from aotcache.protocol.manifest import FileEntry

_LOADED = ("model", "vllm_compile_cache.py")


def content_of(files: Iterable[FileEntry]) -> str:
    """32 hex characters; of all its files where it has none that are loaded by themselves."""
    entries = list(files)
    loaded = [entry for entry in entries if basename(entry.path) in _LOADED] or entries
    lines = sorted(f"{entry.digest} {entry.path}" for entry in loaded)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
