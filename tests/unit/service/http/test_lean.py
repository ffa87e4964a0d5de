"""A lookup that takes the short cut is answered as by FastAPI."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from fastapi.testclient import TestClient

from aotcache.protocol.names import VLLM_AOT
from aotcache_service.http.context import Context
from aotcache_service.http.observe import Observed
from support.indexed import publish
from support.stored import HASH, OTHER_PLATFORM, PLATFORM, RECIPE

JSON = "application/json"
# The short cut takes no parameters: this way leads through FastAPI.
LONG_WAY = "application/json; charset=utf-8"
ASKED = {"layout": VLLM_AOT, "hash": HASH, "platform": asdict(PLATFORM)}


@pytest.fixture
def filled(client: TestClient, context: Context) -> TestClient:
    about = {"recipe": RECIPE, "compile_seconds": 42.5, "expected_parts": ("shared", "rank_0_0-d0")}
    publish(context.database, context.store, b"x", **about)
    return client


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (200, ASKED),
        (200, {**ASKED, "parts": ["shared"], "not a field": 1}),
        (404, {**ASKED, "hash": "b" * 64}),
        (404, {**ASKED, "platform": asdict(OTHER_PLATFORM)}),
        (404, {**ASKED, "parts": ["rank_0_0-d0"]}),
        (422, {**ASKED, "layout": "none"}),
        (422, {**ASKED, "hash": 5}),
    ],
)
def test_the_same_answer_either_way(filled: TestClient, status: int, asked: object) -> None:
    short, long = (
        filled.post(
            "/v1/lookup",
            content=json.dumps(asked),
            headers={"Content-Type": kind, "X-Request-Id": "1"},
        )
        for kind in (JSON, LONG_WAY)
    )
    assert short.status_code == status
    assert (short.status_code, short.content, short.headers) == (
        long.status_code,
        long.content,
        long.headers,
    )


def test_lookups_do_take_the_short_cut(filled: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = filled.post("/v1/lookup", json=ASKED)

    async def closed(*_: object) -> None:
        raise AssertionError("this went on to FastAPI")

    observed = filled.app
    assert isinstance(observed, Observed)
    monkeypatch.setattr(observed._app, "_app", closed)
    assert filled.post("/v1/lookup", json=ASKED).content == whole.content
    assert filled.get("/v1/trees").status_code == 500


async def _in_pieces(app: Any, *pieces: bytes) -> tuple[int, bytes]:
    """Status and body of a lookup whose body comes so. The test client joins what it is given."""
    last = len(pieces) - 1
    messages = iter(
        {"type": "http.request", "body": piece, "more_body": number < last}
        for number, piece in enumerate(pieces)
    )
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/lookup",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("more", [b"", b" ", b"and more"])
def test_a_body_in_pieces_is_put_together(filled: TestClient, more: bytes) -> None:
    """Also one whose first piece would be a lookup by itself."""
    assert filled.portal is not None
    body = json.dumps(ASKED).encode()
    whole = filled.post("/v1/lookup", json=ASKED).content
    for pieces in ((body[:50], body[50:] + more), (body, more)):
        status, answer = filled.portal.call(_in_pieces, filled.app, *pieces)
        assert (status, answer == whole) == ((422, False) if more.strip() else (200, True))
