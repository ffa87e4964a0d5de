"""Whoever reaches the port may send anything: what is held of it before it is a request is
bounded."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterable, Iterator

import httpx2
import pytest

from aotcache_service.http.server import MAX_HEAD
from aotcache_service.settings import ServiceSettings
from support.service import run_service

GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/publish HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def url(settings: ServiceSettings) -> Iterator[str]:
    with run_service(settings) as running:
        yield running


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def refused_after(sent: socket.socket, pieces: Iterable[bytes]) -> int:
    """How many bytes it took; each piece is read before the next one comes, or nearly."""
    size = 0
    sent.settimeout(0.01)
    for piece in pieces:
        try:
            sent.sendall(piece)
            size += len(piece)
            if not sent.recv(4096).startswith(b"HTTP/1.1 200 "):
                return size
        except TimeoutError:
            continue
        except ConnectionError:
            return size
    raise AssertionError(f"{size} bytes were taken")


LINE = b"X-Header: " + b"a" * 1000 + b"\r\n"
PIECE = b"a" * 1000
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        pytest.param(GET, LINE, id="many headers"),
        pytest.param(GET + b"X-Header: ", PIECE, id="a header without end"),
        pytest.param(GET + b"X-", PIECE, id="a header's name without end"),
        pytest.param(b"GET /livez", PIECE, id="a path without end"),
        pytest.param(GET + b"\r\n" + GET, LINE, id="after another request"),
        pytest.param(CHUNKED, LINE, id="after a body"),
    ],
)
def test_a_head_without_end_is_cut_off(url: str, begin: bytes, piece: bytes) -> None:
    with connect(url) as sent:
        size = refused_after(sent, itertools.chain([begin], [piece] * 200))
    assert MAX_HEAD // 2 < size <= MAX_HEAD + 50 * len(piece)
    assert httpx2.get(f"{url}/livez").status_code == 200


def test_what_comes_at_once_is_cut_off_too(url: str) -> None:
    with connect(url) as sent:
        assert refused_after(sent, [GET + LINE * 1000 + b"\r\n", b""]) > 0
    assert httpx2.get(f"{url}/livez").status_code == 200


def test_who_is_cut_off_is_told_why(url: str) -> None:
    with connect(url) as sent:
        sent.sendall(GET + b"X-Header: " + b"a" * MAX_HEAD)
        answer = sent.recv(4096)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"at most 64 KiB" in answer


def test_heads_count_one_by_one(url: str) -> None:
    """Also of requests that share a connection, before and after large bodies."""
    headers = {"X-Header": "a" * (MAX_HEAD // 3)}
    with httpx2.Client(base_url=url) as client:
        for _ in range(5):
            assert client.get("/livez", headers=headers).status_code == 200
            large = client.post("/v1/publish", content=b" " * (1 << 20), headers=headers)
            assert large.status_code == 422


def test_requests_that_do_not_wait_for_answers(url: str) -> None:
    one = GET + b"\r\n"
    with connect(url) as sent:
        sent.sendall(one * 3)
        answers = b""
        while answers.count(b"HTTP/1.1 200 ") < 3:
            answers += sent.recv(4096)
        sent.sendall(one * 1000)
        while piece := sent.recv(4096):
            answers += piece
    assert b"HTTP/1.1 400 " in answers
    assert httpx2.get(f"{url}/livez").status_code == 200
