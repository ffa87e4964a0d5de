"""The way through, over HTTP."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import cast

import httpx2
from fastapi.testclient import TestClient

from aotcache import __version__
from aotcache.protocol.names import new_publish_id
from aotcache.storage import ObjectStore
from aotcache.storage.memory import MemoryStore
from aotcache_service.http.app import create_app
from aotcache_service.http.context import STORAGE_THREADS, Context
from aotcache_service.settings import ServiceSettings
from support.service import run_service
from support.stored import HASH, OTHER_PLATFORM, PLATFORM, RECIPE, put_part

ASKED = {"layout": "vllm-aot", "hash": HASH, "platform": asdict(PLATFORM)}

LOCAL = "http://127.0.0.1"  # without tokens no other name is let in


def publish(client: TestClient, context: Context) -> str:
    key = put_part(context.store, recipe=RECIPE, expected_parts=("shared", "rank_0_0-d0"))
    body = {**ASKED, "publish_id": new_publish_id(), "parts": ["shared"], "recipe": asdict(RECIPE)}
    session = client.post("/v1/publish", json=body).json()
    assert session["parts"] == [
        {"part": "shared", "generation": 0, "next_generation": 1, "manifest": ""}
    ]
    path = f"/v1/publish/{session['publish_id']}/commit"
    assert client.post(path, json={"manifests": [key]}).json() == {"manifests": [key]}
    return key


def test_publish_lookup_outcome_delete(client: TestClient, context: Context) -> None:
    key = publish(client, context)
    hit = client.post("/v1/lookup", json=ASKED)
    assert hit.status_code == 200
    assert hit.json()["parts"][0]["manifest"] == key
    assert hit.json()["missing"] == ["rank_0_0-d0"]
    assert (hit.json()["objects"], hit.json()["storage_url"]) == ("/v1/objects", "")
    assert client.get(f"{hit.json()['objects']}/{key}").content == context.store.get(key)

    by_recipe = {"recipe": asdict(RECIPE), "platform": asdict(PLATFORM)}
    found = client.post("/v1/recipes/lookup", json=by_recipe)
    assert found.json() == {"recipe": RECIPE.id, "trees": [hit.json()]}

    outcome = {
        "layout": "vllm-aot",
        "hash": HASH,
        "platform": PLATFORM.id,
        "part": "shared",
        "generation": 1,
        "outcome": "loaded",
    }
    assert client.post("/v1/outcomes", json=outcome).status_code == 204
    context.usage.flush()
    (tree,) = client.get("/v1/trees", params={"hash": "aa", "engine": "vllm"}).json()["trees"]
    assert (tree["lookups"], tree["outcomes"]) == (2, {"loaded": 1})
    (detail,) = client.get(f"/v1/trees/{HASH}").json()["trees"]
    assert (detail["tree"], detail["notes"]) == (tree, {"driver": "580"})

    deleted = client.delete(f"/v1/trees/{HASH}")
    assert deleted.json() == {"trees": [f"default/vllm-aot/{HASH}/{PLATFORM.id}"]}
    assert client.post("/v1/lookup", json=ASKED).status_code == 404


def test_trees_of_one_hash_by_platform(client: TestClient, context: Context) -> None:
    publish(client, context)
    path = f"/v1/trees/{HASH}"
    (found,) = client.get(path, params={"platform": PLATFORM.id}).json()["trees"]
    assert found["tree"]["platform_id"] == PLATFORM.id
    other = client.get(path, params={"platform": OTHER_PLATFORM.id})
    assert (other.status_code, other.json()["code"]) == (404, "not_found")


class Hanging(MemoryStore):
    """A real store that answers nothing before it is let go."""

    def __init__(self) -> None:
        super().__init__("hanging")
        self.let_go = threading.Event()
        self.waiting = threading.Semaphore(0)

    def size(self, key: str) -> int:
        self.waiting.release()
        self.let_go.wait(60)
        return super().size(key)


def test_lookups_go_on_while_storage_hangs(settings: ServiceSettings) -> None:
    store = Hanging()
    key = f"default/packs/aa/{'a' * 64}-{'0' * 32}"
    asked = STORAGE_THREADS + 20
    with (
        run_service(settings, store) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
        ThreadPoolExecutor(asked) as pool,
    ):
        try:
            reads = [pool.submit(client.get, f"/v1/objects/{key}") for _ in range(asked)]
            for _ in range(STORAGE_THREADS):
                assert store.waiting.acquire(timeout=60)
            assert client.post("/v1/lookup", json=ASKED).status_code == 404
            assert client.get("/readyz").status_code == 200
            assert not any(read.done() for read in reads)
        finally:
            store.let_go.set()
        assert {read.result().status_code for read in reads} == {404}


def test_miss_is_a_404_with_its_reason(client: TestClient, context: Context) -> None:
    miss = client.post("/v1/lookup", json=ASKED)
    assert (miss.status_code, miss.json()["code"], miss.json()["reason"]) == (
        404,
        "miss",
        "unknown_hash",
    )
    publish(client, context)
    asked = {**ASKED, "platform": asdict(OTHER_PLATFORM)}
    miss = client.post("/v1/lookup", json=asked)
    assert miss.json()["reason"] == "other_platform"
    assert [one["field"] for one in miss.json()["differences"]] == ["device", "arch"]
    asked = {"recipe": asdict(RECIPE), "platform": asdict(OTHER_PLATFORM)}
    miss = client.post("/v1/recipes/lookup", json=asked)
    assert (miss.status_code, miss.json()["reason"]) == (404, "other_platform")
    other = replace(RECIPE, tensor_parallel_size=2)
    asked = {"recipe": asdict(other), "platform": asdict(PLATFORM)}
    miss = client.post("/v1/recipes/lookup", json=asked)
    assert (miss.status_code, miss.json()["reason"]) == (404, "other_recipe")
    assert miss.json()["differences"] == [
        {"field": "tensor_parallel_size", "stored": "1", "asked": "2"}
    ]
    asked["recipe"]["model"] = ""
    refused = client.post("/v1/recipes/lookup", json=asked)
    assert refused.status_code == 400
    assert "names no model" in refused.json()["message"]


def test_health(settings: ServiceSettings) -> None:
    client = TestClient(create_app(settings), LOCAL)
    # Not started: alive, but not ready.
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").json()["code"] == "unavailable"
    with client:
        said = {"status": "ready", "version": __version__, "api": [1]}
        assert client.get("/readyz").json() == said


def test_health_needs_no_lock(client: TestClient, context: Context) -> None:
    with context.database.write():
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/lookup", json=ASKED).status_code == 404


def test_the_openapi_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    for path in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert client.get(path).status_code == 200, path
    assert "/v1/lookup" in client.get("/openapi.json").json()["paths"]


def test_it_starts_without_looking_at_storage(settings: ServiceSettings) -> None:
    """However much is stored: nothing is listed, nothing is read."""

    class Unseen:
        url = "file:///unseen"

        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"storage was asked for {name}")

    app = create_app(settings, store=cast("ObjectStore", Unseen()))
    with TestClient(app, LOCAL) as client:
        assert client.get("/readyz").status_code == 200
        assert client.get("/v1/trees").json()["trees"] == []
