"""A cache root that vLLM can write to: without one it does not start (0.32)."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile

from aotcache.probe.trees import tree_folders


def usable_root(cache_root: str) -> str:
    """`cache_root`; or, where it cannot be written and holds no tree that vLLM might load from it,
    a directory of this user's under the temporary directory, the same one for all ranks. Raises
    OSError where there is none either."""
    folder = tree_folders(cache_root)[0]
    try:
        os.makedirs(folder, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK) or os.listdir(folder):
            return cache_root
    except OSError:
        pass  # read-only, or another's
    name = hashlib.sha256(os.fsencode(cache_root)).hexdigest()[:16]
    instead = os.path.join(tempfile.gettempdir(), f"aotcache-{os.geteuid()}-{name}")
    os.makedirs(instead, mode=0o700, exist_ok=True)
    found = os.lstat(instead)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        # Whoever made it first could put anything in that is loaded later.
        raise PermissionError(f"{instead} is another user's, or can be written by others")
    return instead
