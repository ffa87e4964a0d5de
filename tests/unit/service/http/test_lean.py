"""A lookup that takes the short cut is answered as by FastAPI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import pytest
from fastapi.testclient import TestClient

from aotcache.protocol.names import VLLM_AOT
from aotcache_service.http.context import Context
from aotcache_service.http.lean import ShortCut
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
        filled.post("/v1/lookup", content=json.dumps(asked), headers={"Content-Type": kind})
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

    layer = filled.app.middleware_stack  # type: ignore[attr-defined]
    while not isinstance(layer, ShortCut):
        layer = layer.app
    monkeypatch.setattr(layer, "_app", closed)
    assert filled.post("/v1/lookup", json=ASKED).content == whole.content
    assert filled.get("/v1/trees").status_code == 500


def test_a_body_in_pieces_is_put_together(filled: TestClient) -> None:
    body = json.dumps(ASKED).encode()

    def pieces() -> Iterator[bytes]:
        yield body[:50]
        yield body[50:]

    answer = filled.post("/v1/lookup", content=pieces(), headers={"Content-Type": JSON})
    assert answer.json() == filled.post("/v1/lookup", json=ASKED).json()


def test_a_body_without_a_type_is_refused(filled: TestClient) -> None:
    """As by FastAPI: a page of another site can send such a body without being asked."""
    answer = filled.post("/v1/lookup", content=json.dumps(ASKED))
    assert (answer.status_code, answer.json()["code"]) == (422, "usage")


def test_errors_have_their_one_table(filled: TestClient, context: Context) -> None:
    with context.database.write() as db:
        db.connection().exec_driver_sql("DROP TABLE parts")
    answer = filled.post("/v1/lookup", json=ASKED)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    context.lookups = None  # type: ignore[assignment]
    answer = filled.post("/v1/lookup", json=ASKED)
    assert (answer.status_code, answer.json()["code"]) == (500, "error")
    assert "NoneType" not in answer.text
