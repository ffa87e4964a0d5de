"""File locks between processes. The kernel frees those of one that dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from aotcache.errors import LocalError

_PAUSE = 0.02  # seconds between looks


@contextmanager
def alone(
    path: str, timeout: float = -1, waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Be the only one here, by flock on a file that stays. timeout: seconds, negative for no bound.
    waiting: is told once when another is. Raises TimeoutError, LocalError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise _cannot(path, error) from error
    try:
        try:
            _acquire(fd, timeout, waiting)
        except TimeoutError:
            raise
        except OSError as error:
            raise _cannot(path, error) from error
        yield
    finally:
        with suppress(OSError):
            # A process that was forked meanwhile may have it open for a moment longer.
            fcntl.flock(fd, fcntl.LOCK_UN)
        with suppress(OSError):
            os.close(fd)


def _acquire(fd: int, timeout: float, waiting: Callable[[], None]) -> None:
    with suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    waiting()
    if timeout < 0:
        fcntl.flock(fd, fcntl.LOCK_EX)
        return
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        time.sleep(_PAUSE)
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
    raise TimeoutError


def _cannot(path: str, error: OSError) -> LocalError:
    return LocalError(
        f"cannot lock {path}: {error.strerror}; run this as the user whose cache it is"
    )
