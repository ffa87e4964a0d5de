"""URLs of packs: signed by the service, in as few calls as there can be, kept while they last."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec

from aotcache.errors import UnavailableError
from aotcache.net.http import HttpClient
from aotcache.protocol.v1.presign import MAX_URLS, NewPack, Presign, Presigned, SignedUrl

# Of its time a URL is used this much: a request that is being repeated should not outlive it.
_USED = 0.75


class Wish(msgspec.Struct, frozen=True):
    """To read the pack of a key, or to write one of this size there."""

    key: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class PackUrl:
    """query: signed, and in no repr. until: on the monotonic clock."""

    origin: str
    path: str
    query: str = field(repr=False)
    headers: dict[str, str]
    until: float


class PackUrls:
    """One service's. All methods may be called from several threads.

    Threads that wait for a URL while another's is asked for are served by the next call together.
    """

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._known: dict[Wish, PackUrl] = {}
        self._wishes: dict[Wish, None] = {}
        self._lock = threading.Lock()  # of what is above
        self._asking = threading.Lock()  # for as long as the service is asked
        self.signs = True
        """False once the service said that it signs none."""

    def get(self, wish: Wish) -> PackUrl | None:
        """None: the service signs none."""
        with self._lock:
            if found := self._fresh(wish):
                return found
            self._wishes[wish] = None
        with self._asking:
            with self._lock:
                if found := self._fresh(wish):
                    return found
                self._wishes[wish] = None  # a call that failed took it away
                batch = [*self._wishes]
                self._wishes.clear()
            if self.signs:
                self._ask(batch)
            return self._known[wish] if self.signs else None

    def expect(self, wishes: Iterable[Wish]) -> None:
        """Ask for all of them now that are not known."""
        with self._asking:
            with self._lock:
                new = [wish for wish in dict.fromkeys(wishes) if not self._fresh(wish)]
            for start in range(0, len(new), MAX_URLS):
                if self.signs:
                    self._ask(new[start : start + MAX_URLS])

    def take(self, urls: Mapping[Wish, str], seconds: int) -> None:
        """URLs that were signed a moment ago."""
        signed = {wish: SignedUrl(url=url) for wish, url in urls.items()}
        self._keep(signed, time.monotonic(), seconds)

    def origins(self) -> set[str]:
        """Where the known ones lead."""
        with self._lock:
            return {url.origin for url in self._known.values()}

    def forget(self, wish: Wish, url: PackUrl) -> None:
        """This URL is refused. Another one that has been signed since stays."""
        with self._lock:
            if self._known.get(wish) is url:
                del self._known[wish]

    def _fresh(self, wish: Wish) -> PackUrl | None:
        found = self._known.get(wish)
        return found if found and time.monotonic() < found.until else None

    def _ask(self, wishes: Collection[Wish]) -> None:
        begin = time.monotonic()
        reads = [wish for wish in wishes if wish.size is None]
        writes = [wish for wish in wishes if wish.size is not None]
        asked = Presign(
            read=tuple(wish.key for wish in reads),
            write=tuple(NewPack(key=w.key, size=w.size) for w in writes if w.size is not None),
        )
        signed = self._client.request_json("POST", "/v1/presign", asked, Presigned, repeat=True)
        if not signed.seconds:
            self.signs = False
            return
        if (len(signed.read), len(signed.write)) != (len(reads), len(writes)):
            raise UnavailableError(
                f"{self._client.url} signed {len(signed.read) + len(signed.write)} URLs where "
                f"{len(wishes)} were asked for: check that service and client fit together"
            )
        urls = zip([*reads, *writes], [*signed.read, *signed.write], strict=True)
        self._keep(dict(urls), begin, signed.seconds)

    def _keep(self, urls: Mapping[Wish, SignedUrl], begin: float, seconds: int) -> None:
        until = begin + seconds * _USED
        with self._lock:
            self._known = {
                **{wish: url for wish, url in self._known.items() if begin < url.until},
                **{wish: _split(url, until) for wish, url in urls.items()},
            }


def _split(signed: SignedUrl, until: float) -> PackUrl:
    try:
        parts = urlsplit(signed.url)
    except ValueError:
        # Not quoted back: whoever has it can use it.
        raise UnavailableError(
            "the service gave a URL that cannot be read: check AOTCACHE_S3_PUBLIC_ENDPOINT there"
        ) from None
    return PackUrl(
        origin=f"{parts.scheme}://{parts.netloc}",
        path=parts.path,
        query=parts.query,
        headers=signed.headers,
        until=until,
    )
