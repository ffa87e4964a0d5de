"""Objects in S3, through the client, session and event loop of s3fs.

The client's own calls rather than s3fs's file operations: those drop parameters that an old
botocore does not know (If-None-Match: a put would replace), hide a 412 as EINVAL, repeat puts
and answer from listings they have cached.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
from botocore.exceptions import (  # type: ignore[import-untyped]
    ClientError,
    HTTPClientError,
)
from fsspec.asyn import sync
from s3fs import S3FileSystem

from aotcache.errors import StorageUnavailableError
from aotcache.storage.base import ObjectInfo
from aotcache.storage.checked import CheckedStore

CONNECT_SECONDS = 5
READ_SECONDS = 30
ATTEMPTS = 3
CONNECTIONS = 64

# The connection broke after the answer's head: botocore's retries are over by then.
_CUT_OFF = (HTTPClientError, aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)


class S3Store(CheckedStore):
    """Objects below `prefix` of `bucket`. Credentials must allow ListBucket, GetObject, PutObject
    and DeleteObject; without ListBucket S3 hides that an object is missing behind a 403.

    An object is put in one request, so it has at most 5 GiB, and a killed put leaves nothing.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        super().__init__(f"s3://{bucket}" + (f"/{prefix}" if prefix else ""))
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        # botocore itself reads only AWS_DEFAULT_REGION, every other AWS tool AWS_REGION too.
        region = os.environ.get("AWS_REGION")
        self._fs = S3FileSystem(
            skip_instance_cache=True,
            use_listings_cache=False,
            client_kwargs={"region_name": region} if region else {},
            config_kwargs={
                "signature_version": "s3v4",
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                "max_pool_connections": CONNECTIONS,
                "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
            },
        )

        self._connected: Any = None

    @property
    def _client(self) -> Any:
        """aiobotocore's client, whose calls run on s3fs's loop: `_sync`."""
        if self._connected is None:
            self._connected = self._fs.s3
        return self._connected

    def close(self) -> None:
        if self._connected is not None:
            self._sync(self._connected.close)

    def _put(self, key: str, data: bytes | memoryview) -> None:
        for attempt in range(ATTEMPTS):
            try:
                self._call("put_object", key, Body=bytes(data), IfNoneMatch="*")
            except ClientError as error:
                if _status(error) == 412:
                    raise FileExistsError(key) from error
                # Nothing was stored: another put of the key was under way, and S3 says try again.
                if _code(error) != "ConditionalRequestConflict" or attempt == ATTEMPTS - 1:
                    raise self._failure(error, key) from error
            else:
                return

    def _get(self, key: str) -> bytes:
        return self._read(key)

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        return self._read(key, Range=f"bytes={start}-{end - 1}")

    def _read(self, key: str, **limits: str) -> bytes:
        async def read() -> bytes:
            for attempt in range(ATTEMPTS):
                try:
                    answer = await client.get_object(
                        Bucket=self._bucket, Key=self._root + key, **limits
                    )
                    async with answer["Body"] as body:
                        return bytes(await body.read())
                except _CUT_OFF:
                    if attempt == ATTEMPTS - 1:
                        raise
            raise AssertionError("the last attempt returns or raises")

        client = self._client
        try:
            return bytes(self._sync(read))
        except ClientError as error:
            if _code(error) == "NoSuchKey":
                raise FileNotFoundError(key) from error
            raise self._failure(error, key) from error

    def _size(self, key: str) -> int:
        try:
            return int(self._call("head_object", key)["ContentLength"])
        except ClientError as error:
            if _status(error) == 404:
                # The answer to a HEAD has no body that says which of the two is missing.
                self._check_bucket()
                raise FileNotFoundError(key) from error
            raise self._failure(error, key) from error

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """Holds the keys below `prefix` in memory: SeaweedFS lists in the order of directories
        (`a/x` before `a-b/x`), so the first in byte order may come last, and what it skips for
        StartAfter is not what lies before it."""
        found: list[tuple[str, int]] = []
        start = len(self._root)
        more: dict[str, str] = {}
        while True:
            try:
                page = self._sync(
                    self._client.list_objects_v2,
                    Bucket=self._bucket,
                    Prefix=self._root + prefix,
                    **more,
                )
            except ClientError as error:
                raise self._failure(error, prefix) from error
            for item in page.get("Contents", ()):
                if item["Key"][start:] > after:
                    found.append((item["Key"][start:], int(item["Size"])))
            if not page.get("IsTruncated"):
                break
            more = {"ContinuationToken": page["NextContinuationToken"]}
        found.sort()
        for key, size in found:
            yield ObjectInfo(key, size)

    def _delete(self, key: str) -> None:
        try:
            self._call("delete_object", key)
        except ClientError as error:
            if _code(error) != "NoSuchKey":
                raise self._failure(error, key) from error

    def _check_bucket(self) -> None:
        try:
            self._sync(self._client.head_bucket, Bucket=self._bucket)
        except ClientError as error:
            if _status(error) == 404:
                raise StorageUnavailableError(f"there is no bucket {self._bucket}") from error
            # Forbidden to look at the bucket: that it was found is enough.

    def _call(self, name: str, key: str, **arguments: Any) -> Any:
        method = getattr(self._client, name)
        return self._sync(method, Bucket=self._bucket, Key=self._root + key, **arguments)

    def _sync(self, function: Callable[..., Awaitable[Any]], **arguments: Any) -> Any:
        return sync(self._fs.loop, function, **arguments)

    def _failure(self, error: ClientError, key: str) -> StorageUnavailableError:
        """What the server said, from the fields that hold no part of a request."""
        message = str(error.response.get("Error", {}).get("Message", ""))[:300]
        return StorageUnavailableError(
            f"{self._name(key)}: S3 answered {_status(error)} {_code(error)} {message}".rstrip()
            + ": check the bucket, the endpoint and the credentials"
        )


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
