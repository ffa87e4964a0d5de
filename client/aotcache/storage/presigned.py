"""Packs straight from and to S3 by presigned URLs; everything else, small as it is, through the
service, which checks it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from threading import Lock

from aotcache.errors import (
    InvalidNameError,
    StorageUnavailableError,
    UnavailableError,
    UsageError,
)
from aotcache.net.http import Answer, HttpClient
from aotcache.protocol.names import parse_pack_key
from aotcache.storage.advice import advice
from aotcache.storage.http import HttpStore
from aotcache.storage.urls import PackUrl, PackUrls, Wish

ATTEMPTS = 3
_PAUSE = 0.1  # seconds, doubled for each try
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,80})</Code>")
# S3 says 400 of a URL that was signed by a role whose session is over.
_EXPIRED = (400, "ExpiredToken")


class PresignedStore(HttpStore):
    """required: raise UsageError where the service signs no URLs; else packs then pass it too.

    A URL is one pack's and lasts minutes; the first one refused is replaced by a fresh one.
    """

    def __init__(self, client: HttpClient, objects: str, *, required: bool) -> None:
        super().__init__(client, objects)
        self._required = required
        self._urls = PackUrls(client)
        self._origins: dict[str, HttpClient] = {}
        self._lock = Lock()

    def expect(self, keys: Iterable[str]) -> None:
        wishes = [Wish(key) for key in keys if _is_pack(key)]
        if wishes:
            with self._failures("get", wishes[0].key):
                self._urls.expect(wishes)

    def take_urls(self, urls: Mapping[str, str], seconds: int) -> None:
        self._urls.take({Wish(key): url for key, url in urls.items() if _is_pack(key)}, seconds)

    def prepare(self) -> None:
        for origin in self._urls.origins():
            self._origin(origin).prepare()

    def close(self) -> None:
        for client in self._origins.values():
            client.close()

    def _put(self, key: str, data: bytes | memoryview) -> None:
        answer = self._straight(Wish(key, len(data)), "PUT", data)
        if answer is None:
            super()._put(key, data)
        elif answer.status == 412:
            # Perhaps by this very call, whose first answer was lost: the name says the content.
            raise FileExistsError(key)
        elif not answer.ok:
            raise self._failure(answer, key)

    def _get(self, key: str) -> bytes:
        answer = self._read(key, {})
        return super()._get(key) if answer is None else answer.data

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        answer = self._read(key, {"Range": f"bytes={start}-{end - 1}"})
        if answer is None:
            return super()._get_range(key, start, end)
        if answer.status == 416:
            return b""
        return answer.data if answer.status == 206 else answer.data[start:end]

    def _read(self, key: str, headers: Mapping[str, str]) -> Answer | None:
        answer = self._straight(Wish(key), "GET", headers=headers)
        if answer is None or answer.ok or (answer.status == 416 and headers):
            return answer
        if answer.status == 404 and _code(answer) == "NoSuchKey":
            raise FileNotFoundError(key)
        raise self._failure(answer, key)

    def _straight(
        self,
        wish: Wish,
        method: str,
        data: bytes | memoryview | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer | None:
        """S3's answer, whatever its status; None for what passes the service."""
        if not _is_pack(wish.key):
            return None
        fresh = False
        for attempt in range(ATTEMPTS):
            url = self._urls.get(wish)
            if url is None:
                self._refuse_if_required()
                return None
            answer = self._send(url, method, data, headers or {})
            refused = answer.status == 403 or (answer.status, _code(answer)) == _EXPIRED
            if refused and not fresh:
                self._urls.forget(wish, url)
                fresh = True
            elif not _is_passing(answer) or attempt == ATTEMPTS - 1:
                return answer
            else:
                time.sleep(_PAUSE * 2**attempt)
        return answer

    def _send(
        self,
        url: PackUrl,
        method: str,
        data: bytes | memoryview | None,
        headers: Mapping[str, str],
    ) -> Answer:
        try:
            return self._origin(url.origin).send(
                method, url.path, data, query=url.query, headers={**url.headers, **headers}
            )
        except UnavailableError as error:
            raise StorageUnavailableError(
                f"{error}; AOTCACHE_TRANSFER=proxy moves packs through the service instead"
            ) from error

    def _origin(self, url: str) -> HttpClient:
        with self._lock:
            if url not in self._origins:
                self._origins[url] = HttpClient(url)
            return self._origins[url]

    def _refuse_if_required(self) -> None:
        if self._required:
            raise UsageError(
                f"the service at {self._client.url} signs no URLs: its storage is not S3, or "
                "AOTCACHE_PRESIGN_SECONDS is 0 there; leave --transfer (AOTCACHE_TRANSFER) out"
            )

    def _failure(self, answer: Answer, key: str) -> StorageUnavailableError:
        what = f"{self._name(key)}: S3 answered {answer.status} {_code(answer)}".rstrip()
        if answer.status == 403:
            return StorageUnavailableError(
                f"{what} to a URL that was signed just now: check the service's clock, and that "
                "its credentials may read and put objects"
            )
        todo = advice(answer.status, _code(answer)) or "check the bucket and the endpoint"
        return StorageUnavailableError(f"{what} ({answer.url}): {todo}")


def _is_pack(key: str) -> bool:
    try:
        parse_pack_key(key)
    except InvalidNameError:
        return False
    return True


def _is_passing(answer: Answer) -> bool:
    """S3 says of both to try again. Of the conflict nothing was stored: another put of the key was
    under way. (What is busy HttpClient has tried again.)"""
    return answer.status == 500 or _code(answer) == "ConditionalRequestConflict"


def _code(answer: Answer) -> str:
    found = None if answer.ok else _CODE.search(answer.data)
    return found[1].decode() if found else ""
