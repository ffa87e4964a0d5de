"""Objects in cloud storage, through obstore: requests, signatures and repeats are Rust's and hold
no interpreter lock.

What fails is told in words of `refusals`; `s3`, `gcs` and `azure` say what each cloud is.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import obstore

from aotcache.errors import StorageUnavailableError, UsageError
from aotcache.protocol.names import MAX_OBJECT
from aotcache.storage.advice import advice
from aotcache.storage.base import ObjectInfo
from aotcache.storage.checked import CheckedDirectStore
from aotcache.storage.cloud import Cloud, packaged_certificates
from aotcache.storage.refusals import Refusal, asked

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

    from aotcache.storage.cloud import Client

T = TypeVar("T")

CONNECT_SECONDS = 5
READ_SECONDS = 30
# obstore counts from a request's first byte to the answer's, so this is for sending a whole pack.
# A connection that stands still is given up by the kernel after 30 seconds.
PUT_SECONDS = 300
ATTEMPTS = 3
PAGE = 1000
# What is worth another put: no answer, and what the cloud itself says to try again. A conflict on
# S3 is another put of the key that was under way: nothing was stored.
_AGAIN = {0, 408, 409, 429, 500, 502, 503, 504}
# S3 and GCS say 412 alone of what is there already.
_THERE = {"BlobAlreadyExists"}
_NO_OBJECT, _NO_BUCKET = {"NoSuchKey", "BlobNotFound"}, {"NoSuchBucket", "ContainerNotFound"}


class CloudStore(CheckedDirectStore):
    """Objects below `prefix` of a bucket. Credentials must allow to list, get, put and delete;
    without leave to list, S3 and GCS hide that an object is missing behind a 403.

    An object is put in one request, so it has at most 5 GiB, and a killed put leaves nothing.
    Not for a process that forked from one which had used a cloud already.
    """

    # The process in which Rust's threads run: one that forks from it has none, and waits for ever.
    _threads_of: ClassVar[int | None] = None

    def __init__(self, cloud: Cloud, prefix: str) -> None:
        super().__init__(cloud.url + (f"/{prefix}" if prefix else ""))
        self._cloud = cloud
        self._root = f"{prefix}/" if prefix else ""
        self._reads = _open(cloud, READ_SECONDS, ATTEMPTS - 1)

    @property
    def forkable(self) -> bool:
        return CloudStore._threads_of is None

    @cached_property
    def _puts(self) -> Client:
        # Of a put that got no answer obstore does not know that it may be repeated.
        return _open(self._cloud, PUT_SECONDS, 0)

    def close(self) -> None:
        """Connections go with what refers to them."""
        del self._reads
        self.__dict__.pop("_puts", None)

    def _put(self, key: str, data: bytes | memoryview) -> None:
        # That there is none yet is a condition of each of its requests.
        self._send(key, data, "create")

    def _replace(self, key: str, data: bytes | memoryview) -> None:
        self._send(key, data, "overwrite")

    def _send(
        self, key: str, data: bytes | memoryview, mode: Literal["create", "overwrite"]
    ) -> None:
        store, path = self._puts, self._root + key
        for attempt in range(ATTEMPTS):
            try:
                self._ask(lambda: obstore.put(store, path, data, mode=mode, use_multipart=False))
            except Refusal as refusal:
                if refusal.status == 412 or refusal.code in _THERE:
                    raise FileExistsError(key) from refusal
                last = refusal.credentials or attempt == ATTEMPTS - 1
                if last or refusal.status not in _AGAIN:
                    raise self._failure(refusal, key) from refusal
                time.sleep(0.1 * 2**attempt)
            else:
                return

    def _get(self, key: str) -> bytes:
        return self._read(key)

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        return self._read(key, (start, end))

    def _read(self, key: str, limits: tuple[int, int] | None = None) -> bytes:
        path = self._root + key

        def read() -> bytes:
            answer = obstore.get(self._reads, path, options={"range": limits} if limits else None)
            if not limits and (size := answer.meta["size"]) > MAX_OBJECT:
                raise StorageUnavailableError(f"{self.url}{key} has {size} bytes: none of ours has")
            # One chunk of all there is: a single copy, straight into the bytes that are returned.
            return next(iter(answer.stream(min_chunk_size=sys.maxsize)), b"")

        try:
            return self._ask(read)
        except Refusal as refusal:
            if refusal.status == 416 and limits:
                return b""
            raise self._unread(refusal, key) from refusal

    def _size(self, key: str) -> int:
        try:
            return int(self._ask(lambda: obstore.head(self._reads, self._root + key))["size"])
        except Refusal as refusal:
            raise self._unread(refusal, key) from refusal

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """Holds the keys below `prefix` in memory: SeaweedFS lists in the order of directories
        (`a/x` before `a-b/x`), so the first in byte order may come last, and what it skips for
        StartAfter is not what lies before it."""
        found: list[tuple[str, int]] = []
        start = len(self._root)
        pages = obstore.list(self._reads, self._root + prefix or None, chunk_size=PAGE)
        try:
            while page := self._ask(lambda: next(pages, None)):
                found += [
                    (key, item["size"]) for item in page if (key := item["path"][start:]) > after
                ]
        except Refusal as refusal:
            raise self._failure(refusal, prefix) from refusal
        found.sort()
        for key, size in found:
            yield ObjectInfo(key, size)

    def _delete(self, key: str) -> None:
        try:
            self._ask(lambda: obstore.delete(self._reads, self._root + key))
        except Refusal as refusal:
            if refusal.status != 404 or refusal.code in _NO_BUCKET:
                raise self._failure(refusal, key) from refusal

    def _unread(self, refusal: Refusal, key: str) -> Exception:
        if refusal.status == 404 and refusal.code not in _NO_BUCKET:
            if refusal.code not in _NO_OBJECT:
                # The answer to a HEAD has no body that says which of the two is missing.
                self._check_bucket(key)
            return FileNotFoundError(key)
        return self._failure(refusal, key)

    def _check_bucket(self, key: str) -> None:
        try:
            self._ask(lambda: next(obstore.list(self._reads, self._root + key), None))
        except Refusal as refusal:
            if refusal.status == 404:
                raise StorageUnavailableError(
                    f"there is no {self._cloud.noun} {self._cloud.bucket}"
                ) from refusal
            if refusal.status != 403:
                raise self._failure(refusal, key) from refusal
            # Forbidden to look at the bucket: that it was found is enough.

    def _ask(self, function: Callable[[], T]) -> T:
        process = os.getpid()
        if CloudStore._threads_of is None:
            CloudStore._threads_of = process
        if CloudStore._threads_of != process:
            raise StorageUnavailableError(
                f"{self.url} cannot be used in a process that forked from one which had used "
                "cloud storage: start processes by spawn, or use it in the new one only"
            )
        if threading.current_thread() is threading.main_thread():
            return _interruptibly(lambda: asked(self._cloud, function))
        return asked(self._cloud, function)

    def _failure(self, refusal: Refusal, key: str) -> StorageUnavailableError:
        name = self._name(key)
        if refusal.credentials:
            return StorageUnavailableError(f"{name}: {refusal}{self._cloud.unread}")
        todo = advice(refusal.status, refusal.code, self._cloud.name)
        todo = todo or f"check the {self._cloud.noun}, the endpoint and the credentials"
        return StorageUnavailableError(f"{name}: {refusal}: {todo}")


def _interruptibly(function: Callable[[], T]) -> T:
    """Python handles signals in its main thread, and not before Rust returns there: with a server
    that is silent, Ctrl-C would wait for minutes."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(function())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _open(cloud: Cloud, seconds: int, repeats: int) -> Client:
    """Sends nothing. Raises UsageError for settings that fit no such cloud."""
    options: ClientConfig = {
        "allow_http": cloud.endpoint.lower().startswith("http:"),
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=seconds),
        # Of all of a request, which obstore would end after 30 seconds: a large object takes long.
        "timeout": timedelta(days=1),
    }
    again: RetryConfig = {"max_retries": repeats, "retry_timeout": timedelta(minutes=3)}
    if cloud.certificates:
        options["root_certificate"] = cloud.certificates
    try:
        return asked(cloud, lambda: cloud.open(options, again))
    except Refusal as refusal:
        # Some are wanted even for an endpoint that is spoken to without TLS.
        bundle = packaged_certificates() if "No CA certificates" in str(refusal) else None
        if bundle is None:
            raise UsageError(
                f"{cloud.url} cannot be opened: {refusal}: look at {cloud.environment}"
            ) from refusal
    options["root_certificate"] = bundle
    return asked(cloud, lambda: cloud.open(options, again))
