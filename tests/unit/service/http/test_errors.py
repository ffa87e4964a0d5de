"""Every wrong request is answered with a Problem, and every answer is documented."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from typing import Any, get_args

import psycopg.errors
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from aotcache import __version__
from aotcache.errors import AotcacheError, error_classes
from aotcache.protocol.names import MAX_PARTS
from aotcache.protocol.v1.trees import SORTS
from aotcache_service.http.bodies import MAX_JSON
from aotcache_service.http.context import Context
from aotcache_service.http.errors import STATUS, said_of, status_of
from aotcache_service.http.v1.trees import Sort
from support.stored import HASH, PLATFORM, RECIPE

ID = "0" * 32
LOOKUP: dict[str, Any] = {"layout": "vllm-aot", "hash": HASH, "platform": asdict(PLATFORM)}
BY_RECIPE: dict[str, Any] = {"recipe": asdict(RECIPE), "platform": asdict(PLATFORM)}
OPEN = {**LOOKUP, "publish_id": ID, "parts": ["shared"]}
OUTCOME = {
    "layout": "vllm-aot",
    "hash": HASH,
    "platform": PLATFORM.id,
    "part": "shared",
    "generation": 1,
    "outcome": "loaded",
}
TOO_MANY = [f"rank_{rank}_0-d0" for rank in range(MAX_PARTS + 1)]
MANIFEST = f"default/trees/vllm-aot/{HASH}/{PLATFORM.id}/shared/00000001.manifest"
MARK = f"default/marks/deleted/vllm-aot/{HASH}/{PLATFORM.id}/shared/00000001"
PACK = f"default/packs/aa/{'a' * 64}-{ID}"

BAD: list[tuple[str, str, Any, int, str]] = [
    ("POST", "/v1/lookup", None, 422, "usage"),
    ("POST", "/v1/lookup", b"{", 422, "usage"),
    ("POST", "/v1/lookup", b"\xff", 400, "usage"),
    ("POST", "/v1/lookup", b'{"layout": "\\ud800"}', 422, "usage"),
    ("POST", "/v1/lookup", b"[" * 100_000, 400, "usage"),
    ("POST", "/v1/lookup", [], 422, "usage"),
    ("POST", "/v1/lookup", {**LOOKUP, "hash": "../x"}, 422, "usage"),
    ("POST", "/v1/lookup", {**LOOKUP, "layout": "none"}, 422, "usage"),
    ("POST", "/v1/lookup", {**LOOKUP, "namespace": "A"}, 422, "usage"),
    ("POST", "/v1/lookup", {**LOOKUP, "parts": ["rank"]}, 422, "usage"),
    ("POST", "/v1/lookup", {**LOOKUP, "platform": {}}, 422, "usage"),
    (
        "POST",
        "/v1/lookup",
        {**LOOKUP, "platform": {**asdict(PLATFORM), "torch": "\0"}},
        422,
        "usage",
    ),
    ("POST", "/v1/lookup", b" " * (MAX_JSON + 1), 413, "usage"),
    ("POST", "/v1/publish", b" " * (MAX_JSON + 1), 413, "usage"),
    ("GET", "/v1/lookup", None, 405, "usage"),
    ("POST", "/v1/recipes/lookup", {"recipe": {}, "platform": asdict(PLATFORM)}, 422, "usage"),
    ("POST", "/v1/recipes/lookup", {**BY_RECIPE, "recipe": {"engine": "vllm"}}, 400, "usage"),
    (
        "POST",
        "/v1/recipes/lookup",
        {**BY_RECIPE, "recipe": {"engine": "vllm", "model": "m" * 2000}},
        422,
        "usage",
    ),
    (
        "POST",
        "/v1/recipes/lookup",
        {**BY_RECIPE, "recipe": {"engine": "vllm", "model": "m", "tensor_parallel_size": -1}},
        422,
        "usage",
    ),
    ("POST", "/v1/publish", {**OPEN, "recipe": {"engine": "\0"}}, 422, "usage"),
    ("GET", "/v1/trees?sort=id", None, 422, "usage"),
    ("GET", "/v1/trees?order=up", None, 422, "usage"),
    ("GET", "/v1/trees?limit=501", None, 422, "usage"),
    ("GET", "/v1/trees?limit=x", None, 422, "usage"),
    ("GET", "/v1/trees?cursor=x", None, 400, "usage"),
    ("GET", "/v1/trees?namespace=A", None, 400, "invalid_name"),
    ("GET", "/v1/trees?layout=none", None, 400, "invalid_name"),
    ("GET", "/v1/trees?platform=x", None, 400, "invalid_name"),
    ("GET", f"/v1/trees/{HASH}", None, 404, "not_found"),
    ("GET", f"/v1/trees/{HASH}?platform=x", None, 400, "invalid_name"),
    ("GET", "/v1/trees/.hidden", None, 400, "invalid_name"),
    ("GET", f"/v1/trees/{HASH}?layout=vllm-jit", None, 400, "invalid_name"),
    ("DELETE", f"/v1/trees/{HASH}", None, 404, "not_found"),
    ("DELETE", f"/v1/trees/{HASH}?platform=x", None, 400, "invalid_name"),
    ("POST", "/v1/publish", {**OPEN, "publish_id": "x"}, 422, "usage"),
    ("POST", "/v1/publish", {**OPEN, "parts": ["x"]}, 422, "usage"),
    ("POST", "/v1/publish", {**OPEN, "parts": TOO_MANY}, 400, "usage"),
    ("POST", "/v1/lookup", {**LOOKUP, "parts": TOO_MANY}, 400, "usage"),
    ("POST", "/v1/explain", {**LOOKUP, "parts": TOO_MANY}, 400, "usage"),
    ("POST", f"/v1/publish/{ID}/commit", {"manifests": ["x"]}, 422, "usage"),
    ("POST", f"/v1/publish/{ID}/commit", {"manifests": [MANIFEST]}, 410, "session_expired"),
    ("POST", "/v1/publish/x/commit", {"manifests": [MANIFEST]}, 400, "invalid_name"),
    (
        "POST",
        f"/v1/publish/{ID}/commit",
        {"manifests": [MANIFEST, MANIFEST.replace("default", "team")]},
        400,
        "usage",
    ),
    ("POST", "/v1/outcomes", {**OUTCOME, "outcome": "fine"}, 422, "usage"),
    ("POST", "/v1/outcomes", {**OUTCOME, "reason": "x" * 2001}, 422, "usage"),
    ("POST", "/v1/outcomes", {**OUTCOME, "reason": "a\nWARNING forged"}, 422, "usage"),
    ("POST", "/v1/outcomes", {**OUTCOME, "node": "n\x1b[31m"}, 422, "usage"),
    ("POST", "/v1/outcomes", {**OUTCOME, "generation": 0}, 422, "usage"),
    ("POST", "/v1/explain", {**LOOKUP, "node": "n\u202e"}, 400, "usage"),
    ("POST", "/v1/explain", {**LOOKUP, "hash_factors": {"a\r": ""}}, 400, "usage"),
    ("POST", "/v1/outcomes", OUTCOME, 404, "not_found"),
    ("GET", "/v1/objects?prefix=default", None, 400, "invalid_name"),
    ("GET", "/v1/objects?prefix=../", None, 400, "invalid_name"),
    ("GET", "/v1/objects?limit=0", None, 422, "usage"),
    ("GET", "/v1/objects/default", None, 400, "invalid_name"),
    ("GET", "/v1/objects/default/%2e%2e/x", None, 400, "invalid_name"),
    ("GET", f"/v1/objects/{PACK}", None, 404, "object_missing"),
    ("PUT", f"/v1/objects/{PACK}", b"other", 400, "bad_pack"),
    ("PUT", f"/v1/objects/{PACK.replace('/aa/', '/bb/')}", b"x", 400, "invalid_name"),
    ("PUT", f"/v1/objects/{MANIFEST}", b"x", 400, "bad_manifest"),
    ("PUT", f"/v1/objects/{MARK}", b"", 400, "invalid_name"),
    ("DELETE", f"/v1/objects/{MARK}", None, 400, "invalid_name"),
    ("GET", "/v1/none", None, 404, "version"),
    ("GET", "/none", None, 404, "remote"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "code"), BAD)
def test_bad_request_is_answered_with_a_problem(
    client: TestClient, method: str, path: str, body: Any, status: int, code: str
) -> None:
    content = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    headers = {"Content-Type": "application/json"}
    answer = client.request(method, path, content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json().keys() == {"code", "message"}
    assert answer.json()["message"]


def test_unknown_path_asks_whether_the_url_is_right(client: TestClient) -> None:
    message = client.post("/prefix/v1/lookup", json=LOOKUP).json()["message"]
    assert message == "this service has no path /prefix/v1/lookup: is the URL right?"


@pytest.mark.parametrize("path", ["/v1/later", "/v2/lookup"])
def test_a_newer_client_is_told_to_upgrade_the_service(client: TestClient, path: str) -> None:
    said = client.post(path, json=LOOKUP).json()
    assert said["message"] == (
        f"this service, aotcache {__version__}, has no {path}: a newer client asks for it, so "
        "upgrade the service"
    )


def test_a_client_that_is_too_old_is_told_to_upgrade(client: TestClient) -> None:
    said = client.post("/v0/lookup", json=LOOKUP).json()
    assert said["code"] == "version"
    assert said["message"].endswith("its API begins with version 1, so upgrade the client")


def test_a_field_of_a_newer_client_is_ignored(client: TestClient) -> None:
    for path in ("/v1/lookup", "/v1/publish"):
        asked = OPEN if path == "/v1/publish" else LOOKUP
        answer = client.post(path, json={**asked, "later": {"x": [1]}})
        assert answer.status_code in (200, 404), answer.text
        assert answer.json().get("code", "miss") == "miss"


def test_bound_of_json_counts_what_comes(client: TestClient) -> None:
    """Not what the Content-Length says: there is none here."""
    headers = {"Content-Type": "application/json"}
    pieces = (b" " * (1 << 20) for _ in range(9))
    answer = client.post("/v1/lookup", content=pieces, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "usage")
    body = json.dumps(LOOKUP).encode().rjust(MAX_JSON)
    assert client.post("/v1/lookup", content=body, headers=headers).json()["code"] == "miss"


def test_fault_tells_nothing_of_the_inside(
    client: TestClient, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    context.database = None  # type: ignore[assignment]
    answer = client.get("/v1/trees")
    assert answer.status_code == 500
    assert answer.json()["code"] == "error"
    assert "NoneType" not in answer.text
    assert "AttributeError" in caplog.text


def test_busy_database_says_try_again(client: TestClient, context: Context) -> None:
    with context.database.write() as db:
        db.connection().exec_driver_sql("DROP TABLE outcomes")
    answer = client.post("/v1/outcomes", json=OUTCOME)
    assert answer.status_code == 404, "the tree is looked for first"
    with context.database.write() as db:
        db.connection().exec_driver_sql("DROP TABLE deletions")
    answer = client.post("/v1/publish", json=OPEN)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


def test_every_error_has_a_status() -> None:
    for cls in error_classes().values():
        assert 400 <= status_of(cls("x")) < 600
    assert status_of(AotcacheError("x")) == STATUS[Exception] == 500


def test_openapi_documents_every_answer(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["info"]["title"] == "aotcache"
    assert "swagger" in client.get("/docs").text
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            assert {"422", "500", "503"} <= answers.keys(), (method, path)
            for status, answer in answers.items():
                if not status.startswith("2"):
                    (schema,) = (one["schema"] for one in answer["content"].values())
                    assert schema["$ref"].rsplit("/")[-1] in ("Problem", "Miss"), (method, path)
    for method, path, _, status, _ in BAD:
        name = path.split("?")[0]
        for pattern, name_of in (
            ("/v1/trees/", "/v1/trees/{hash}"),
            ("/v1/objects/", "/v1/objects/{key}"),
            ("/v1/publish/", "/v1/publish/{publish_id}/commit"),
        ):
            name = name_of if name.startswith(pattern) else name
        if name in document["paths"] and status != 405:
            answers = document["paths"][name][method.lower()]["responses"]
            assert str(status) in answers, (name, status)


def test_sorts_are_those_of_the_protocol() -> None:
    assert get_args(Sort) == SORTS


@pytest.mark.parametrize(
    "why", [sqlite3.OperationalError("database or disk is full"), psycopg.errors.DiskFull()]
)
def test_a_full_disk_of_the_index_is_named(why: Exception) -> None:
    assert "disk is full" in said_of(OperationalError("INSERT", {}, why))[1]
    other = OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))
    assert "does not answer" in said_of(other)[1]
