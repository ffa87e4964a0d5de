"""Bodies come before anybody knows whose they are: they are bounded in size, number and time."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx2
import pytest

from aotcache_service.http import bodies
from aotcache_service.settings import ServiceSettings
from support.service import run_service

PUBLISH, LOOKUP = "/v1/publish", "/v1/lookup"


@contextmanager
def begun(url: str, length: int, first: bytes, path: str = PUBLISH) -> Iterator[socket.socket]:
    """A request of which no more than this has come."""
    host, port = url.removeprefix("http://").split(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as sent:
        sent.sendall(head.encode() + first)
        yield sent


@pytest.mark.parametrize("path", [PUBLISH, LOOKUP])
@pytest.mark.parametrize("first", [b"", b"{"])
def test_a_body_that_stops(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch, path: str, first: bytes
) -> None:
    monkeypatch.setattr(bodies, "SILENT_SECONDS", 0.2)
    with run_service(settings) as url, begun(url, 100, first, path) as sent:
        assert sent.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_trickles(settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.5)
    with run_service(settings) as url, begun(url, 100_000, b"{") as sent:
        sent.settimeout(0.05)
        for _ in range(200):
            sent.sendall(b" ")
            try:
                answer = sent.recv(4096)
                break
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_many_at_once_leave_memory_for_others(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_HELD", 1_000_000)
    with run_service(settings) as url, ExitStack() as held:
        for _ in range(9):
            held.enter_context(begun(url, 200_000, b" " * 100_000))
        end = time.monotonic() + 30
        answer = httpx2.post(f"{url}/v1/publish", content=b" " * 200_000)
        while answer.status_code != 503 and time.monotonic() < end:
            time.sleep(0.05)
            answer = httpx2.post(f"{url}/v1/publish", content=b" " * 200_000)
        assert answer.json()["message"].startswith("too many large bodies at once")
        # What is small goes on, and once they leave, all does.
        assert httpx2.get(f"{url}/v1/trees").status_code == 200
        held.close()
        while answer.status_code == 503 and time.monotonic() < end:
            time.sleep(0.05)
            answer = httpx2.post(f"{url}/v1/publish", content=b" " * 200_000)
        assert answer.status_code == 422
