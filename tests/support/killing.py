"""Kill -9 at every step: the audit events of Python and of our stores are the fault points.

Each storage operation (`aotcache.storage`) and each change of the disk below the watched
directories is one step; the process dies right before it. It does not wait for its disk: what the
kernel has is not lost with a process, and a busy disk would take hours.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Steps:
    """Counts steps and kills the process before number `last` (0: never)."""

    def __init__(self, below: Sequence[str], last: int) -> None:
        self.below = tuple(below)
        self.last = last
        self.count = 0
        self._process = os.getpid()
        self._lock = threading.Lock()

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "aotcache.storage" or self._changes(event, arguments):
            self.step()

    def step(self) -> None:
        if os.getpid() != self._process:
            return  # one that was forked since dies of this one's death
        with self._lock:
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)

    def _changes(self, event: str, arguments: tuple[object, ...]) -> bool:
        if event == "open":
            path, _, flags = arguments
            # What a relative path is relative to is not said; nobody else opens any.
            near = isinstance(path, str) and not path.startswith("/")
            return isinstance(flags, int) and bool(flags & _WRITES) and (near or self._below(path))
        if event in ("os.rename", "os.link"):
            pairs = zip(arguments[:2], arguments[2:], strict=True)
            arguments = tuple(_whole(*pair) for pair in pairs)
        if event == "os.mkdir":
            arguments = (_whole(arguments[0], arguments[2]),)
        return event in _CHANGES and any(self._below(argument) for argument in arguments)

    def _below(self, path: object) -> bool:
        return isinstance(path, str) and path.startswith(self.below)


def _whole(path: object, directory: object) -> object:
    """directory: the descriptor that the path is relative to, or -1."""
    if not isinstance(directory, int) or directory < 0:
        return path
    return f"{os.readlink(f'/proc/self/fd/{directory}')}/{path}"


def killed_before(last: int, below: Sequence[str], operation: Callable[[], object]) -> bool:
    """Run the operation in a process that dies before step `last`. False: it ended before that.

    The operation must succeed otherwise, and make its own connections.
    """
    child = os.fork()
    if child == 0:
        try:
            _be_light()
            sys.addaudithook(Steps(below, last).hook)
            operation()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the operation failed"
    return False


def _be_light() -> None:
    """In a process that was just forked: it does not wait for its disk, and leaves alone what it
    has of the tests. To go through gigabytes of their objects, as the service does once when it has
    started, would copy them all."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def connected(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    gc.freeze()
    os.fsync = lambda _descriptor: None
    event.listen(Engine, "connect", connected)


def run_service(last: int, data: Path, log: Path) -> int:
    """Start `aotcache serve --data-dir DATA` in a process that dies before step `last` (0: never)
    of what it does to storage, below the directory, or to its database: the end of each
    transaction is a step. Returns its pid. Forked: importing the service takes most of a start."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    from aotcache_service.commands.serve import serve

    child = os.fork()
    if child:
        return child
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, 2)
        # pytest has put its own files there.
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
        signal.alarm(300)  # should the test be killed
        _be_light()
        steps = Steps([str(data)], last)
        event.listen(Engine, "commit", lambda _connection: steps.step())
        sys.addaudithook(steps.hook)
        serve(["--data-dir", str(data), "--port", "0"])
    finally:
        traceback.print_exc()
        os._exit(1)
