"""What every store does alike: check keys, announce changes, turn failures into our errors.

A backend implements the underscored methods, for keys that are fine already. It raises
FileNotFoundError where there is no object, FileExistsError where there is one, and whatever its
library raises for the rest.
"""

from __future__ import annotations

import abc
import builtins
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from aotcache.errors import (
    AotcacheError,
    InvalidNameError,
    ObjectExistsError,
    ObjectMissingError,
    RemoteError,
    SessionExpiredError,
    StorageUnavailableError,
)
from aotcache.protocol.names import check_object_key
from aotcache.storage.base import ObjectInfo

AUDIT_EVENT = "aotcache.storage"

_log = logging.getLogger(__name__)
_QUERY = re.compile(r"\?[^\s\"'<>]*")


def check_prefix(prefix: str) -> str:
    """A prefix that list takes: empty, or the start of a key up to a `/`."""
    if prefix:
        if not prefix.endswith("/"):
            raise InvalidNameError(f"{prefix[:140]!r} is not a prefix of keys: it ends with no '/'")
        check_object_key(prefix + "x")
    return prefix


class CheckedStore(abc.ABC):
    """The ObjectStore contract over a backend's raw operations."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def forkable(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def put(self, key: str, data: bytes | memoryview) -> None:
        check_object_key(key)
        with self._failures("put", key):
            sys.audit(AUDIT_EVENT, "put", key)
            try:
                self._put(key, data)
            except FileExistsError as error:
                raise ObjectExistsError(f"{self._name(key)} exists already") from error

    def get(self, key: str) -> bytes:
        check_object_key(key)
        with self._failures("get", key), self._missing(key):
            return self._get(key)

    def get_range(self, key: str, start: int, end: int) -> bytes:
        check_object_key(key)
        if not 0 <= start < end:
            raise ValueError(f"[{start}, {end}) is not a range of bytes")
        with self._failures("get", key), self._missing(key):
            data = self._get_range(key, start, end)
        if len(data) != end - start:
            raise StorageUnavailableError(
                f"{self._name(key)} gave {len(data)} of the {end - start} bytes from {start}: "
                "the object is shorter than it should be: `aotcache reconcile` takes what needs "
                "it out of service, until it is published again"
            )
        return data

    def size(self, key: str) -> int:
        check_object_key(key)
        with self._failures("get", key), self._missing(key):
            return self._size(key)

    def expect(self, keys: Iterable[str]) -> None:  # noqa: B027 (few stores ask for anything)
        """Nothing has to be asked for first."""

    def take_urls(self, urls: Mapping[str, str], seconds: int) -> None:  # noqa: B027 (nor uses any)
        """There is no use for them."""

    def prepare(self) -> None:  # noqa: B027 (connections are the library's own)
        """Nothing to prepare."""

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        return self._checked(prefix, after)

    def delete(self, key: str) -> None:
        check_object_key(key)
        with self._failures("delete", key):
            sys.audit(AUDIT_EVENT, "delete", key)
            self._delete(key)

    @abc.abstractmethod
    def close(self) -> None: ...

    @abc.abstractmethod
    def _put(self, key: str, data: bytes | memoryview) -> None: ...

    @abc.abstractmethod
    def _get(self, key: str) -> bytes: ...

    @abc.abstractmethod
    def _get_range(self, key: str, start: int, end: int) -> bytes:
        """As many of the bytes [start, end) as there are."""

    @abc.abstractmethod
    def _size(self, key: str) -> int: ...

    @abc.abstractmethod
    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """Sorted. May give keys up to `after`, and keys that are none of ours."""

    @abc.abstractmethod
    def _delete(self, key: str) -> None: ...

    def _checked(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        with self._failures("list", prefix):
            for found in self._list(prefix, after):
                if found.key <= after:
                    continue
                try:
                    check_object_key(found.key)
                except InvalidNameError:
                    _log.warning("%s holds %r, which is not ours: ignored", self.url, found.key)
                    continue
                yield found

    def _name(self, key: str) -> str:
        return f"{self.url.rstrip('/')}/{key}"

    @contextmanager
    def _missing(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectMissingError(f"there is no {self._name(key)}") from error

    @contextmanager
    def _failures(self, operation: str, key: str) -> Iterator[None]:
        try:
            yield
        except SessionExpiredError:
            raise  # a publish begins anew
        except RemoteError as error:
            raise StorageUnavailableError(f"{operation} {self._name(key)}: {error}") from error
        except AotcacheError:
            raise
        except Exception as error:
            # obstore's and botocore's exceptions have no other base in common.
            raise StorageUnavailableError(
                f"{operation} {self._name(key)} failed: {describe(error)}"
            ) from error


class CheckedDirectStore(CheckedStore):
    """The DirectStore contract, likewise."""

    def replace(self, key: str, data: bytes | memoryview) -> None:
        check_object_key(key)
        with self._failures("replace", key):
            sys.audit(AUDIT_EVENT, "replace", key)
            self._replace(key, data)

    @abc.abstractmethod
    def _replace(self, key: str, data: bytes | memoryview) -> None: ...


def describe(error: BaseException) -> str:
    """An exception in one line. Query strings go: a presigned URL's holds a signature."""
    lines: builtins.list[str] = _QUERY.sub("?…", str(error)).split("\n")
    return f"{type(error).__name__}: {lines[0]}"
