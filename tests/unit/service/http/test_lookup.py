"""A lookup that is answered with all that a pull asks for next."""

from __future__ import annotations

import base64
import threading
import time
from dataclasses import asdict
from typing import Any

import pytest
from fastapi.testclient import TestClient

from aotcache.errors import StorageUnavailableError
from aotcache.protocol.names import VLLM_AOT
from aotcache_service.http.context import LOOKUP_READS, Context
from aotcache_service.http.v1 import lookup
from aotcache_service.ops.presign import Presigner
from support.indexed import publish
from support.s3 import S3Server
from support.stored import HASH, PLATFORM

ASKED = {"layout": VLLM_AOT, "hash": HASH, "platform": asdict(PLATFORM)}
PARTS = ("shared", "rank_0_0-d0")


@pytest.fixture
def filled(client: TestClient, context: Context) -> TestClient:
    for number, part in enumerate(PARTS):
        publish(context.database, context.store, b"%d" % number, part=part)
    return client


def _ask(client: TestClient, **more: Any) -> Any:
    answer = client.post("/v1/lookup", json={**ASKED, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def _data(hit: Any) -> dict[str, bytes]:
    return {part["part"]: base64.b64decode(part["data"]) for part in hit["parts"]}


def test_without_a_word_there_is_nothing_more(filled: TestClient) -> None:
    hit = _ask(filled)
    assert not any(_data(hit).values())
    assert (hit["urls"], hit["url_seconds"]) == ({}, 0)


def test_the_manifests_as_they_are_stored(filled: TestClient, context: Context) -> None:
    hit = _ask(filled, manifests=True)
    assert set(_data(hit)) == set(PARTS)
    for part in hit["parts"]:
        assert _data(hit)[part["part"]] == context.store.get(part["manifest"])
    assert hit["urls"] == {}


def test_of_the_parts_that_are_asked_for(filled: TestClient) -> None:
    data = _data(_ask(filled, manifests=True, parts=["shared"]))
    assert data.pop("shared")
    assert not any(data.values())


def test_one_that_cannot_be_read_is_left_to_the_node(
    filled: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = context.store.get

    def get(key: str) -> bytes:
        if "rank" in key:
            raise StorageUnavailableError("no answer")
        return read(key)

    monkeypatch.setattr(context.store, "get", get)
    data = _data(_ask(filled, manifests=True))
    assert data["shared"]
    assert not data["rank_0_0-d0"]


def test_a_storage_that_hangs_is_not_waited_for(
    filled: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def get(_key: str) -> bytes:
        go_on.wait(30)
        return b""

    read = context.store.get
    monkeypatch.setattr(lookup, "_SECONDS", 0.2)
    monkeypatch.setattr(context.store, "get", get)
    begin = time.monotonic()
    for _ in range(2 * LOOKUP_READS):
        assert not any(_data(_ask(filled, manifests=True)).values())
    assert time.monotonic() - begin < 15
    go_on.set()
    monkeypatch.setattr(context.store, "get", read)
    monkeypatch.setattr(lookup, "_SECONDS", 10.0)
    assert all(_data(_ask(filled, manifests=True)).values())


def test_what_fails_beside_the_answer_does_not_spoil_it(
    signing: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> list[str]:
        raise RuntimeError("no connection is free")

    monkeypatch.setattr(lookup, "packs_of", broken)
    assert _ask(signing, urls=True)["urls"] == {}
    assert f"default/vllm-aot/{HASH[:12]} is found, without" in caplog.text
    assert "no connection is free" in caplog.text


@pytest.mark.parametrize("most", [1, 2])
def test_trees_of_many_files(
    filled: TestClient, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(lookup, "_MOST_FILES", most)
    assert any(_data(_ask(filled, manifests=True)).values()) is (most == 2)


def test_so_many_that_it_would_be_long(filled: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_MOST_PARTS", 1)
    assert not any(_data(_ask(filled, manifests=True)).values())
    assert _data(_ask(filled, manifests=True, parts=["shared"]))["shared"]


def test_of_large_ones_those_that_have_room(
    filled: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [len(context.store.get(part["manifest"])) for part in _ask(filled)["parts"]]
    monkeypatch.setattr(lookup, "_MOST_BYTES", max(sizes) + 1)
    assert sorted(map(bool, _data(_ask(filled, manifests=True)).values())) == [False, True]
    monkeypatch.setattr(lookup, "_MOST_BYTES", min(sizes) - 1)
    assert not any(_data(_ask(filled, manifests=True)).values())


def test_a_service_that_signs_nothing(filled: TestClient) -> None:
    hit = _ask(filled, urls=True)
    assert (hit["urls"], hit["url_seconds"]) == ({}, 0)


@pytest.fixture
def signing(filled: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    S3Server("http://127.0.0.1:9").use(monkeypatch)
    monkeypatch.setattr(context, "presigner", Presigner("s3://bucket/a", "", 77))
    return filled


def _packs(context: Context) -> set[str]:
    return {found.key for found in context.store.list("default/packs/")}


def test_urls_of_the_packs(signing: TestClient, context: Context) -> None:
    hit = _ask(signing, urls=True)
    assert set(hit["urls"]) == _packs(context)
    for key, url in hit["urls"].items():
        assert key in url
        assert "X-Amz-Expires=77" in url
    assert hit["url_seconds"] == 77
    assert not any(_data(hit).values())


def test_urls_of_the_parts_that_are_asked_for(signing: TestClient, context: Context) -> None:
    urls = _ask(signing, urls=True, parts=["shared"])["urls"]
    assert set(urls) < _packs(context)
    assert len(urls) == 1


def test_of_too_many_packs_there_are_none(
    signing: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_MOST_PACKS", 1)
    assert _ask(signing, urls=True)["urls"] == {}


def test_a_service_that_cannot_sign_now(
    signing: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_key: str) -> None:
        raise StorageUnavailableError("no credentials")

    monkeypatch.setattr(context.presigner, "read", read)
    hit = _ask(signing, urls=True, manifests=True)
    assert hit["urls"] == {}
    assert not any(_data(hit).values())
