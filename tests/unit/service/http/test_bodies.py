"""Bodies come before anybody knows whose they are: they are bounded in size, number and time."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx2
import pytest
from fastapi.testclient import TestClient

from aotcache_service.auth import READ
from aotcache_service.http import bodies
from aotcache_service.index import tokens
from aotcache_service.index.database import Database
from aotcache_service.settings import ServiceSettings
from support.service import run_service

PUBLISH, LOOKUP = "/v1/publish", "/v1/lookup"


@contextmanager
def begun(
    url: str, length: int, first: bytes, path: str = PUBLISH, token: str = ""
) -> Iterator[socket.socket]:
    """A request of which no more than this has come."""
    host, port = url.removeprefix("http://").split(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n"
    )
    head += f"Authorization: Bearer {token}\r\n\r\n" if token else "\r\n"
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


def make_tokens(settings: ServiceSettings, count: int) -> list[str]:
    database = Database(settings.database_url)
    with database.write() as db:
        about = {"name": "", "scope": READ, "namespaces": ["*"], "now": 0}
        made = [tokens.create(db, **about).text for _ in range(count)]  # type: ignore[arg-type]
    database.close()
    return made


def test_a_large_body_without_a_token_is_refused_before_it_is_read(
    settings: ServiceSettings,
) -> None:
    with run_service(settings) as url:
        make_tokens(settings, 1)
        with begun(url, 1_000_000, b" " * 100_000) as sent:
            answer = sent.recv(4096)
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b"www-authenticate: Bearer" in answer
        answered = httpx2.post(f"{url}/v1/publish", content=b" " * 100_000)
        assert (answered.status_code, answered.json()["code"]) == (401, "unauthenticated")


def test_one_token_leaves_room_to_others(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_HELD", 600_000)
    with run_service(settings) as url, ExitStack() as held:
        one, other = make_tokens(settings, 2)
        for _ in range(2):
            held.enter_context(begun(url, 200_000, b" " * 100_000, token=one))

        def status(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return httpx2.post(url + PUBLISH, content=b" " * 150_000, headers=headers).status_code

        end = time.monotonic() + 30
        while status(one) != 503 and time.monotonic() < end:
            time.sleep(0.05)
        assert (status(one), status(other)) == (503, 422)


@pytest.mark.parametrize(
    ("path", "most"),
    [("/v1/leases", 64 << 10), ("/v1/leases/end", 64 << 10), (PUBLISH, 1 << 20)],
)
def test_each_route_has_its_bound(client: TestClient, path: str, most: int) -> None:
    """Who waits for a lease keeps what it asked meanwhile."""
    headers = {"Content-Type": "application/json"}
    for size, status in ((most, 422), (most + 1, 413)):
        answer = client.post(path, content=b"{}".ljust(size), headers=headers)
        assert answer.status_code == status, answer.text
