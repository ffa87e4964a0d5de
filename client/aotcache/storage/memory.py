"""Objects in this process's memory, for tests and trials."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator

from aotcache.storage.base import ObjectInfo
from aotcache.storage.checked import CheckedDirectStore

_LOCK = threading.Lock()
_STORES: defaultdict[str, dict[str, bytes]] = defaultdict(dict)


class MemoryStore(CheckedDirectStore):
    """Stores of one name share their objects, as long as the process lives."""

    def __init__(self, name: str) -> None:
        super().__init__(f"memory://{name}")
        self._objects = _STORES[name]

    def close(self) -> None:
        """The objects stay."""

    def _put(self, key: str, data: bytes | memoryview) -> None:
        with _LOCK:
            if key in self._objects:
                raise FileExistsError(key)
            self._objects[key] = bytes(data)

    def _replace(self, key: str, data: bytes | memoryview) -> None:
        with _LOCK:
            self._objects[key] = bytes(data)

    def _get(self, key: str) -> bytes:
        try:
            return self._objects[key]
        except KeyError:
            raise FileNotFoundError(key) from None

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        return self._get(key)[start:end]

    def _size(self, key: str) -> int:
        return len(self._get(key))

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        with _LOCK:
            found = sorted(
                (key, len(data))
                for key, data in self._objects.items()
                if key.startswith(prefix) and key > after
            )
        for key, size in found:
            yield ObjectInfo(key, size)

    def _delete(self, key: str) -> None:
        with _LOCK:
            self._objects.pop(key, None)
