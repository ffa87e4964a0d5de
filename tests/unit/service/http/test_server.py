"""Whoever reaches the port may send anything: what is held of it before it is a request is
bounded."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

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


def until_the_end(sent: socket.socket, data: bytes) -> bytes:
    """What is answered to this before the connection is ended."""
    answer = b""
    with suppress(ConnectionError):  # as it is ended before all of it was read
        sent.sendall(data)
        while piece := sent.recv(4096):
            answer += piece
    return answer


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
        until_the_end(sent, begin + piece * (3 * MAX_HEAD // len(piece)))
    assert httpx2.get(f"{url}/livez").status_code == 200


def test_who_is_cut_off_is_told_why(url: str) -> None:
    with connect(url) as sent:
        answer = until_the_end(sent, (GET + b"X-Header: ").ljust(MAX_HEAD + 1, b"a"))
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
        answers += until_the_end(sent, one * 1000)
    assert answers.count(b"HTTP/1.1 200 ") < 1000
    assert httpx2.get(f"{url}/livez").status_code == 200
