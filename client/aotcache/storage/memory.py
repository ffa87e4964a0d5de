"""Objects in this process's memory, for tests and trials: fsspec's memory file system."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from fsspec.implementations.memory import MemoryFileSystem

from aotcache.storage.base import ObjectInfo
from aotcache.storage.checked import CheckedStore

# One for all stores: fsspec keeps one dictionary for all of them, and looks before it puts.
_LOCK = threading.Lock()


class MemoryStore(CheckedStore):
    """Stores of one name share their objects, as long as the process lives."""

    def __init__(self, name: str) -> None:
        super().__init__(f"memory://{name}")
        self._fs = MemoryFileSystem(use_listings_cache=False)
        self._root = f"/{name}/"

    def close(self) -> None:
        """The objects stay."""

    def _put(self, key: str, data: bytes | memoryview) -> None:
        with _LOCK:
            if self._fs.exists(self._root + key):
                raise FileExistsError(key)
            self._fs.pipe_file(self._root + key, bytes(data))

    def _get(self, key: str) -> bytes:
        with _LOCK:
            return bytes(self._fs.cat_file(self._root + key))

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        with _LOCK:
            return bytes(self._fs.cat_file(self._root + key, start=start, end=end))

    def _size(self, key: str) -> int:
        with _LOCK:
            return int(self._fs.size(self._root + key))

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        with _LOCK:
            found = self._fs.find(self._root + prefix, detail=True)
        start = len(self._root)
        for path in sorted(found):
            if path[start:] > after:
                yield ObjectInfo(path[start:], int(found[path]["size"]))

    def _delete(self, key: str) -> None:
        with _LOCK:
            if self._fs.exists(self._root + key):
                self._fs.rm_file(self._root + key)
