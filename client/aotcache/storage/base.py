"""The contract every object store keeps: objects under checked keys.

Objects are put once and never change, but for the unsigned half of a manifest, which says where the
bytes lie (`DirectStore.replace`). All methods may be called from several threads at once.
Every method raises InvalidNameError for a key that `protocol.names.check_object_key` refuses (also
one that comes back from storage in a listing: it is left out and logged), and
StorageUnavailableError when nothing can be said: no answer, no permission, no space. A store that
writes under a publish session also raises SessionExpiredError.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import msgspec


class ObjectInfo(msgspec.Struct, frozen=True):
    key: str
    size: int


class ObjectStore(Protocol):
    """One place for packs, manifests and marks."""

    url: str
    """Where it is, without credentials: for messages, and for nodes that have their own."""

    @property
    def forkable(self) -> bool:
        """Whether a process that is forked now can use it."""
        ...

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Put if absent, whole or not at all: no reader sees a part of it, and a put that is
        killed leaves none. Raises ObjectExistsError when there is one; of many that race one
        wins."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object. Raises ObjectMissingError, and StorageUnavailableError for one of more
        than `names.MAX_OBJECT`."""
        ...

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes [start, end), exactly end - start of them. Raises ObjectMissingError, and
        StorageUnavailableError when the object is shorter than `end`."""
        ...

    def size(self, key: str) -> int:
        """Bytes of the object. Raises ObjectMissingError."""
        ...

    def expect(self, keys: Iterable[str]) -> None:
        """These objects are about to be read: what reading them needs is asked for at once, where
        it would else be asked for one by one. Says nothing of objects that are not there."""
        ...

    def take_urls(self, urls: Mapping[str, str], seconds: int) -> None:
        """URLs to read these objects with, by key, that the service has signed already; good for so
        many seconds. Others are asked for where a store needs one."""
        ...

    def prepare(self) -> None:
        """A read is about to come, in this process: begin to connect. Waits for a name at most."""
        ...

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix` (which ends with `/`), sorted by key in code point
        order, greater than `after`. Empty when there are none."""
        ...

    def delete(self, key: str) -> None:
        """Delete the object; not an error when there is none."""
        ...

    def close(self) -> None:
        """Give up connections. The store is not used afterwards."""
        ...


class DirectStore(ObjectStore, Protocol):
    """A store that is not behind a service."""

    def replace(self, key: str, data: bytes | memoryview) -> None:
        """Put in place of what is there: a reader sees all of the one or all of the other, and so
        does one after a replace that was killed."""
        ...
