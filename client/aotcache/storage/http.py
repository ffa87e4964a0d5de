"""Objects through the service, for nodes without storage credentials (protocol.v1.objects)."""

from __future__ import annotations

from collections.abc import Iterator

from aotcache.errors import UnavailableError
from aotcache.net.http import HttpClient
from aotcache.storage.base import ObjectInfo
from aotcache.storage.checked import CheckedStore

PAGE = 1000


class HttpStore(CheckedStore):
    """Objects at `{objects}/{key}` of the client's service. The client stays its owner's."""

    def __init__(self, client: HttpClient, objects: str) -> None:
        super().__init__(client.url + objects)
        self._client = client
        self._objects = objects

    def close(self) -> None:
        """The connections are the client's."""

    def prepare(self) -> None:
        self._client.prepare()

    def _path(self, key: str) -> str:
        return f"{self._objects}/{key}"

    def _put(self, key: str, data: bytes | memoryview) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        self._client.request_bytes("PUT", self._path(key), data, headers=headers)

    def _get(self, key: str) -> bytes:
        return self._client.request_bytes("GET", self._path(key)).data

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        headers = {"Range": f"bytes={start}-{end - 1}"}
        answer = self._client.send("GET", self._path(key), headers=headers)
        if answer.status == 416:
            return b""
        answer.check()
        # Something in between that knows no ranges answers 200 with the whole object.
        return answer.data if answer.status == 206 else answer.data[start:end]

    def _size(self, key: str) -> int:
        answer = self._client.send("HEAD", self._path(key))
        if not answer.ok:
            # The answer to a HEAD has no body: ask again in a way that can say what is wrong.
            self._client.request_bytes("GET", self._path(key), headers={"Range": "bytes=0-0"})
        length = answer.headers.get("content-length", "")
        if not answer.ok or not length.isdecimal():
            raise UnavailableError(f"{answer.url} answered {answer.status} without a length")
        return int(length)

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        from aotcache.protocol.v1.objects import ObjectPage  # who only pulls never lists

        while True:
            query = {"prefix": prefix, "after": after, "limit": str(PAGE)}
            page = self._client.request_json("GET", self._objects, None, ObjectPage, query=query)
            for found in page.objects:
                yield ObjectInfo(found.key, found.size)
            if not page.after:
                return
            if page.after <= after:
                raise UnavailableError(f"{self.url} lists the same page again: it would not end")
            after = page.after

    def _delete(self, key: str) -> None:
        self._client.request_bytes("DELETE", self._path(key))
