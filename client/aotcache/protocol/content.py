"""What an engine loads of a part: generations that differ only in other files fail alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from posixpath import basename

from aotcache.protocol.manifest import FileEntry

_LOADED = ("model", "vllm_compile_cache.py")


def content_of(files: Iterable[FileEntry]) -> str:
    """32 hex characters; empty where the engine loads nothing of it by itself.

    Later generations add files and keep these: one that crashes is poison in all of them.
    """
    return _digest(e for e in files if e.path.endswith(_LOADED) and basename(e.path) in _LOADED)


def content_or_all(files: Iterable[FileEntry]) -> str:
    """As `content_of`; of all files where that is empty."""
    entries = list(files)
    return content_of(entries) or _digest(entries)


def _digest(files: Iterable[FileEntry]) -> str:
    lines = sorted(f"{entry.digest} {entry.path}" for entry in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32] if lines else ""
