"""A store that ends its caller in the middle, as a SIGKILL would."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from aotcache.storage import DirectStore, ObjectInfo


class Killed(BaseException):
    """Nothing in the code under test may catch it, as it could not a SIGKILL."""


class KilledAt:
    """A real store that ends its caller before the n-th call."""

    def __init__(self, store: DirectStore, steps: int) -> None:
        self._store = store
        self._steps = itertools.count(-steps)
        self.url = store.url
        self.forkable = store.forkable

    def _step(self) -> DirectStore:
        if next(self._steps) == 0:
            raise Killed
        return self._store

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._step().put(key, data)

    def replace(self, key: str, data: bytes | memoryview) -> None:
        self._step().replace(key, data)

    def expect(self, keys: Iterable[str]) -> None:
        self._store.expect(keys)

    def take_urls(self, urls: Mapping[str, str], seconds: int) -> None:
        self._store.take_urls(urls, seconds)

    def prepare(self) -> None:
        self._store.prepare()

    def get(self, key: str) -> bytes:
        return self._step().get(key)

    def get_range(self, key: str, start: int, end: int) -> bytes:
        return self._step().get_range(key, start, end)

    def size(self, key: str) -> int:
        return self._step().size(key)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        return self._step().list(prefix, after)

    def delete(self, key: str) -> None:
        self._step().delete(key)

    def close(self) -> None:
        self._store.close()
