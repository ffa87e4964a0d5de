"""Helper: a process forked from this one, for a share of its work.

Threads of one process wait for each other's interpreter; what is mostly Python and system calls (a
thousand small files) keeps a second core from what is mostly decompression. A fork has all that is
imported already: it is there in two milliseconds.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

import msgspec

from aotcache.errors import AotcacheError, error_classes

_WORTH = 16 << 20  # bytes: the two milliseconds are a tenth of what is won


class _Said(msgspec.Struct, frozen=True, tag=True):
    what: msgspec.Raw


class _Done(msgspec.Struct, frozen=True, tag=True):
    pass


class _Failed(msgspec.Struct, frozen=True, tag=True):
    """code: of an AotcacheError; of a fault in our code none, and the message is a traceback."""

    code: str
    message: str


Say = Callable[[object], None]  # of what msgspec makes JSON of
Work = Callable[[bytes, Say], object]


class HelperKilledError(Exception):
    """It died before its work was done: killed, perhaps as memory ran out."""


def is_worth(size: int) -> bool:
    """To have half of the work with so many bytes done by another process."""
    return size >= _WORTH and len(os.sched_getaffinity(0)) > 1


class Helper:
    """Waits, does `work(told, say)` once it is told something (one line), and ends. It ends too
    when this process does, or lets it go: nothing outlives the tree's lock, which both hold.

    `work` runs with what this process had when it forked; of its threads there is none. What it
    returns is kept until its process ends: to free it takes time that `listen` would wait for.
    """

    def __init__(self, work: Work, first: Callable[[], None] = lambda: None) -> None:
        """first: what it does at once, before it is told anything. Raises OSError where no process
        can be made."""
        ours, theirs = socket.socketpair()
        try:
            self._process = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if not self._process:
            _run(work, first, ours, theirs)
        theirs.close()
        self._channel = ours

    def tell(self, told: bytes) -> None:
        # Where it has died already, `listen` says so.
        with suppress(OSError):
            self._channel.sendall(told + b"\n")

    def listen(self, heard: Callable[[msgspec.Raw], None]) -> None:
        """Until its work is done. heard: is given all that it says, as JSON. Raises the error that
        it raised, and HelperKilledError where it died."""
        with self._channel.makefile("rb") as said:
            for line in said:
                found = msgspec.json.decode(line, type=_Said | _Done | _Failed)
                if isinstance(found, _Said):
                    heard(found.what)
                elif isinstance(found, _Done):
                    return
                elif kind := error_classes().get(found.code):
                    raise kind(found.message)
                else:
                    raise RuntimeError(f"in the process that helps: {found.message}")
        raise HelperKilledError

    def stop(self) -> None:
        """It writes nothing any more. May be called again."""
        if self._process:
            with suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
            self.leave(wait=True)

    def leave(self, *, wait: bool = False) -> None:
        """It is not needed any more. wait: until it is gone, else nobody waits for that."""
        process, self._process = self._process, 0
        if not process:
            return
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._channel.close()
        if wait:
            _reap(process)
        else:
            threading.Thread(target=_reap, args=(process,), daemon=True).start()


def _reap(process: int) -> None:
    with suppress(ChildProcessError):  # where whoever started us ignores its children's ends
        os.waitpid(process, 0)


def _run(
    work: Work, first: Callable[[], None], ours: socket.socket, channel: socket.socket
) -> None:
    """All that the new process does. Never returns: what its parent does at its end, and has
    buffered, is not this one's to do."""
    code = 1
    try:
        ours.close()
        # Who reads what the parent prints is not to wait for this one's end.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nowhere, standard)
        with suppress(Exception):  # its work says what is wrong
            first()
        with channel.makefile("rb") as hearing:
            told = hearing.readline()
        if told:
            threading.Thread(target=_end_with, args=(channel,), daemon=True).start()
            _work(work, told, channel)
        code = 0
    finally:
        os._exit(code)


def _work(work: Work, told: bytes, channel: socket.socket) -> None:
    lock = threading.Lock()

    def send(said: _Said | _Done | _Failed) -> None:
        with lock:
            channel.sendall(msgspec.json.encode(said) + b"\n")

    try:
        kept = work(told, lambda what: send(_Said(msgspec.Raw(msgspec.json.encode(what)))))
    except AotcacheError as error:
        send(_Failed(error.code, str(error)))
    except Exception:
        send(_Failed("", traceback.format_exc()))
    else:
        send(_Done())
        del kept


def _end_with(channel: socket.socket) -> None:
    """The parent says no more; when it dies, or lets go, there is an end to read."""
    with suppress(OSError):
        channel.recv(1)
    os._exit(1)
