"""The processes of this node at one cache root: engines that may write, and the one publisher."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress

from aotcache.errors import LocalError
from aotcache.local.state import STATE_DIRECTORY, check_ours, make_directories

_TRIES, _PAUSE = 100, 0.01  # seconds


def node_file(cache_root: str, name: str) -> str:
    """A file of ours at the cache root itself. Raises LocalError."""
    directory = os.path.join(cache_root, STATE_DIRECTORY)
    make_directories(directory)
    check_ours(directory)
    return os.path.join(directory, name)


def join_engines(cache_root: str) -> int:
    """Count as an engine of this cache root until the descriptor is closed or the process ends.
    Raises LocalError."""
    path = node_file(cache_root, "engines.lock")
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            return _lock(path, fcntl.LOCK_SH)
        time.sleep(_PAUSE)  # a publisher has it, for as long as a look takes
    raise LocalError(f"cannot lock {path}: another process keeps it")


def engines_live(cache_root: str) -> bool:
    """Whether an engine of this cache root lives. Raises LocalError. Not for an engine to ask: its
    own lock does not keep itself out, and would be lost."""
    try:
        os.close(_lock(node_file(cache_root, "engines.lock"), fcntl.LOCK_EX))
    except BlockingIOError:
        return True
    return False


def be_publisher(cache_root: str) -> int | None:
    """Be the one publisher of this cache root, until the descriptor is closed or the process ends;
    None: another one is. Raises LocalError."""
    try:
        return _lock(node_file(cache_root, "publisher.lock"), fcntl.LOCK_EX)
    except BlockingIOError:
        return None


def _lock(path: str, kind: int) -> int:
    """A record lock, as flock would live on in every child that the process forks. Raises
    BlockingIOError where others hold it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise LocalError(f"cannot open {path}: {error.strerror}") from error
    try:
        fcntl.lockf(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        with suppress(OSError):
            os.close(fd)
        if isinstance(error, (BlockingIOError, PermissionError)):  # POSIX allows both
            raise BlockingIOError(path) from error
        raise LocalError(f"cannot lock {path}: {error.strerror}") from error
    return fd
