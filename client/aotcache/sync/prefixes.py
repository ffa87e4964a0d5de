"""Prefixes that the jobs of one fetch share: given by one, or read by who needs it first."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from aotcache.core.framing import Prefix


class Prefixes:
    """By digest. Each is held until the last frame that needs it has been read, and the last of all
    for as long as this is: to give its memory back takes time, and who reads waits for the end."""

    def __init__(self) -> None:
        self._ready: dict[str, Future[Prefix]] = {}
        self._needed: Counter[str] = Counter()
        self._lock = threading.Lock()

    def need(self, digests: Iterable[str]) -> None:
        """Frames that will be read: the digest of each one's prefix."""
        self._needed.update(digests)

    def is_needed(self, digest: str) -> bool:
        return digest in self._needed

    def is_promised(self, digest: str) -> bool:
        return digest in self._ready

    def promise(self, digest: str) -> None:
        """A job that has been begun gives this one: others wait for it."""
        with self._lock:
            self._ready.setdefault(digest, Future())

    def give(self, prefix: Prefix) -> None:
        with suppress(InvalidStateError, KeyError):  # nobody waits any more
            self._ready[prefix.digest].set_result(prefix)

    def fail(self, error: BaseException) -> None:
        """Whoever waits is told that it waits in vain."""
        with self._lock:
            for future in self._ready.values():
                with suppress(InvalidStateError):
                    future.set_exception(error)

    def get(self, digest: str, read: Callable[[str], Prefix]) -> Prefix:
        """Wait for it, or have it read where nobody has promised it. Raises what `read` raises."""
        with self._lock:
            mine = digest not in self._ready
            future = self._ready.setdefault(digest, Future())
        if mine:
            try:
                found = read(digest)
            except BaseException as error:
                with suppress(InvalidStateError):
                    future.set_exception(error)
            else:
                with suppress(InvalidStateError):  # a job gave it meanwhile
                    future.set_result(found)
        return future.result()

    def used(self, digest: str) -> None:
        """A frame that needed it has been read."""
        with self._lock:
            self._needed[digest] -= 1
            if self._needed[digest] <= 0:
                del self._needed[digest]
                if self._needed:
                    self._ready.pop(digest, None)
