"""A real S3 server behind a proxy that lets some of its requests fail, as a large one does now and
then. The client's Host goes through, as signatures are over it."""

from __future__ import annotations

import http.client
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from urllib.parse import urlsplit

from support.http import Reply, Request, serving
from support.s3 import S3Server

INTERNAL, SLOW_DOWN = "500 InternalError", "503 SlowDown"
UNHEARD, LOST, CUT = "never arrived", "answer lost", "answer cut"
KINDS = (INTERNAL, SLOW_DOWN, UNHEARD, LOST, CUT)
# A client tries three times: the same request fails no more often than that in a row, less one.
_IN_A_ROW = 2
_HOP = {"connection", "keep-alive", "transfer-encoding"}


@dataclass
class FaultyS3:
    """server: how S3 is reached through the proxy. share: of the requests that fail. kinds: the
    ways in which they do, by turns. failed: how many did, by kind; asked: of so many."""

    behind: S3Server
    server: S3Server
    share: float = 0.0
    kinds: tuple[str, ...] = KINDS
    asked: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    _random: random.Random = field(default_factory=lambda: random.Random(10))
    _in_a_row: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)

    def answer(self, request: Request) -> Reply | None:
        kind = self._choose(request)
        if kind == UNHEARD:
            return None
        if kind in (INTERNAL, SLOW_DOWN):
            status, code = kind.split()
            return Reply(int(status), f"<Error><Code>{code}</Code></Error>".encode())
        reply = self._forward(request)
        if kind == LOST:
            return None
        return replace(reply, cut=len(reply.body) // 2) if kind == CUT else reply

    def _choose(self, request: Request) -> str:
        """Empty: it does not fail."""
        which = request.method, request.path.partition("?")[0]
        with self._lock:
            self.asked += 1
            often = self._in_a_row[which] >= _IN_A_ROW and self.share < 1
            if often or self._random.random() >= self.share:
                self._in_a_row[which] = 0
                return ""
            self._in_a_row[which] += 1
            kind = self.kinds[self.failed.total() % len(self.kinds)]
            self.failed[kind] += 1
            return kind

    def _forward(self, request: Request) -> Reply:
        target = urlsplit(self.behind.endpoint)
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
        try:
            connection.putrequest(
                request.method, request.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers.items():
                if name not in _HOP:
                    connection.putheader(name, value)
            connection.endheaders(request.body)
            answer = connection.getresponse()
            headers = {n: v for n, v in answer.getheaders() if n.lower() not in _HOP}
            return Reply(answer.status, answer.read(), headers)
        finally:
            connection.close()


@contextmanager
def faulty(behind: S3Server) -> Iterator[FaultyS3]:
    proxy = FaultyS3(behind, behind)
    with serving(proxy.answer) as serves:
        proxy.server = replace(behind, endpoint=serves.url)
        yield proxy
