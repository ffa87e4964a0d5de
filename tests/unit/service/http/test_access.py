"""Every call under /v1 asks who asks, before it looks at anything."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete

from aotcache.protocol.names import new_publish_id
from aotcache_service.auth import ADMIN, PUBLISH, READ, SCOPES
from aotcache_service.http.context import Context
from aotcache_service.index import tokens
from aotcache_service.index.operation import TokenRow
from support.stored import HASH, PLATFORM, RECIPE, put_part

NAMESPACE = "team"
ABOUT = {
    "namespace": NAMESPACE,
    "layout": "vllm-aot",
    "hash": HASH,
}
ASKED = {**ABOUT, "platform": asdict(PLATFORM)}
LEASE = {"lookup": ASKED, "part": "shared"}
MANIFEST = f"{NAMESPACE}/trees/vllm-aot/{HASH}/{PLATFORM.id}/shared/00000001.manifest"
PACK = f"{NAMESPACE}/packs/00/{'0' * 64}-{'1' * 32}"
PUBLISH_ID = new_publish_id()

# Each call: the scope it needs, method, path, and what is sent.
CALLS: list[tuple[str, str, str, dict[str, Any]]] = [
    (READ, "POST", "/v1/lookup", {"json": ASKED}),
    (
        READ,
        "POST",
        "/v1/recipes/lookup",
        {
            "json": {
                "namespace": NAMESPACE,
                "recipe": asdict(RECIPE),
                "platform": asdict(PLATFORM),
            }
        },
    ),
    (READ, "GET", f"/v1/trees?namespace={NAMESPACE}", {}),
    (READ, "GET", f"/v1/trees/{HASH}?namespace={NAMESPACE}", {}),
    (ADMIN, "DELETE", f"/v1/trees/{HASH}?namespace={NAMESPACE}", {}),
    (ADMIN, "PUT", f"/v1/trees/{HASH}/pin?namespace={NAMESPACE}", {}),
    (ADMIN, "DELETE", f"/v1/trees/{HASH}/pin?namespace={NAMESPACE}", {}),
    (READ, "POST", "/v1/leases", {"json": {"lookup": ASKED, "part": "shared"}}),
    (
        PUBLISH,
        "POST",
        "/v1/leases/end",
        {"json": {"lookup": ASKED, "part": "shared", "holder": "0" * 32}},
    ),
    (READ, "POST", "/v1/explain", {"json": ASKED}),
    (READ, "GET", f"/v1/misses?namespace={NAMESPACE}", {}),
    (READ, "GET", f"/v1/stats?namespace={NAMESPACE}", {}),
    (ADMIN, "GET", f"/v1/audit?namespace={NAMESPACE}", {}),
    (ADMIN, "GET", "/v1/collect", {}),
    (ADMIN, "POST", "/v1/collect", {"json": {}}),
    (
        PUBLISH,
        "POST",
        "/v1/publish",
        {"json": {**ASKED, "publish_id": PUBLISH_ID, "parts": ["shared"]}},
    ),
    (PUBLISH, "POST", f"/v1/publish/{PUBLISH_ID}/commit", {"json": {"manifests": [MANIFEST]}}),
    (READ, "GET", f"/v1/objects?prefix={NAMESPACE}/packs/", {}),
    (READ, "HEAD", f"/v1/objects/{MANIFEST}", {}),
    (READ, "GET", f"/v1/objects/{MANIFEST}", {}),
    (READ, "GET", f"/v1/objects/{PACK}", {}),
    (PUBLISH, "PUT", f"/v1/objects/{PACK}", {"content": b"x"}),
    (PUBLISH, "DELETE", f"/v1/objects/{PACK}", {}),
    (READ, "POST", "/v1/presign", {"json": {"read": [PACK]}}),
    (PUBLISH, "POST", "/v1/presign", {"json": {"write": [{"key": PACK, "size": 1}]}}),
    (READ, "GET", f"/v1/quarantine?namespace={NAMESPACE}", {}),
    (ADMIN, "POST", "/v1/quarantine", {"json": {**ABOUT, "reason": "x"}}),
    (
        ADMIN,
        "POST",
        "/v1/quarantine/release",
        {"json": ABOUT},
    ),
    (ADMIN, "POST", "/v1/keys/revoke", {"json": {"key": "0" * 32, "namespace": NAMESPACE}}),
    (
        READ,
        "POST",
        "/v1/outcomes",
        {
            "json": {
                **ABOUT,
                "platform": PLATFORM.id,
                "part": "shared",
                "generation": 1,
                "outcome": "loaded",
            }
        },
    ),
    (READ, "POST", "/v1/leases", {"json": LEASE}),
    (PUBLISH, "POST", "/v1/leases/end", {"json": {**LEASE, "holder": "0" * 32}}),
]
# Of no namespace: a token has to be for all of them.
EVERYWHERE = {"/v1/collect"}
IDS = [f"{method} {path.partition('?')[0][:30]} {scope}" for scope, method, path, _ in CALLS]


class Asks:
    """Asks with a new token."""

    def __init__(self, client: TestClient, context: Context) -> None:
        self.client, self.context = client, context

    def __call__(
        self, call: tuple[str, str, str, dict[str, Any]], scope: str, *namespaces: str
    ) -> Any:
        with self.context.database.write() as db:
            token = tokens.create(db, name="", scope=scope, namespaces=namespaces, now=0)
        _, method, path, sent = call
        headers = {"Authorization": f"Bearer {token.text}"}
        return self.client.request(method, path, headers=headers, **sent)


@pytest.fixture
def asks(client: TestClient, context: Context) -> Asks:
    return Asks(client, context)


def test_all_calls_are_here(client: TestClient) -> None:
    """A route that is added and asks nobody would else go unseen."""
    documented = {
        (method.upper(), path)
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method in methods
        if path.startswith("/v1/")
    }
    covered = set()
    for _, method, path, _ in CALLS:
        bare = path.partition("?")[0].replace(HASH, "{hash}").replace(PUBLISH_ID, "{publish_id}")
        for key in (MANIFEST.replace(HASH, "{hash}"), PACK):
            bare = bare.replace(key, "{key}")
        covered.add((method, bare))
    assert covered == documented


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_without_a_token_nothing_is_answered(
    client: TestClient, asks: Asks, call: tuple[str, str, str, dict[str, Any]]
) -> None:
    asks(CALLS[0], READ, "other")  # from now on there is one
    _, method, path, sent = call
    for headers in ({}, {"Authorization": "Bearer aotc_wrong"}):
        answer = client.request(method, path, headers=headers, **sent)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            assert answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_a_scope_below_and_another_namespace_are_refused_alike(
    context: Context, asks: Asks, call: tuple[str, str, str, dict[str, Any]]
) -> None:
    """Whether there is such a tree or not."""
    needed = SCOPES.index(call[0])
    everywhere = call[2] in EVERYWHERE

    def refusals() -> list[str]:
        found = [asks(call, ADMIN, "other")]
        found += [asks(call, scope, NAMESPACE) for scope in SCOPES[: needed + everywhere]]
        found += [asks(call, scope, "*") for scope in SCOPES[:needed]]
        assert {answer.status_code for answer in found} == {403}
        texts = [answer.text for answer in found if call[1] != "HEAD"]
        # The token's own id differs each time.
        return [text.partition("may not")[2] for text in texts]

    before = refusals()
    put_part(context.store, namespace=NAMESPACE)
    assert refusals() == before
    for scope in SCOPES[needed:]:
        for namespace in ("*",) if everywhere else (NAMESPACE, "*"):
            assert asks(call, scope, namespace).status_code not in (401, 403, 422)


def test_a_list_without_a_namespace_is_of_all_that_the_token_is_for(
    client: TestClient, context: Context, asks: Asks
) -> None:
    for namespace in ("a", "b", "c"):
        key = put_part(context.store, namespace=namespace)
        about = {**ASKED, "namespace": namespace, "publish_id": new_publish_id()}
        opened = client.post("/v1/publish", json={**about, "parts": ["shared"]}).json()
        path = f"/v1/publish/{opened['publish_id']}/commit"
        assert client.post(path, json={"manifests": [key]}).status_code == 200
        missed = {**ASKED, "namespace": namespace, "hash": "0" * 64, "node": "n"}
        assert client.post("/v1/explain", json=missed).json()["reason"] == "unknown_hash"
        bad = {**ABOUT, "namespace": namespace, "reason": "x"}
        assert client.post("/v1/quarantine", json=bad).status_code == 200

    def answer(path: str, *namespaces: str) -> Any:
        return asks((READ, "GET", path, {}), READ, *namespaces).json()

    for namespaces, seen in [(("a",), "a"), (("a", "c"), "ac"), (("*",), "abc"), (("d",), "")]:
        for path, field in (("trees", "trees"), ("quarantine", "parts")):
            found = answer(f"/v1/{path}", *namespaces)[field]
            assert sorted(one["namespace"] for one in found) == list(seen), path
        assert answer("/v1/stats", *namespaces)["quarantined"] == len(seen)
        misses = answer("/v1/misses", *namespaces)["groups"]
        assert sum(one["misses"] for one in misses) == len(seen)


def test_all_objects_are_listed_for_tokens_of_all_namespaces_only(asks: Asks) -> None:
    everything: tuple[str, str, str, dict[str, Any]] = (READ, "GET", "/v1/objects", {})
    assert asks(everything, READ, "*").status_code == 200
    assert asks(everything, ADMIN, "a").status_code == 403


def test_a_token_made_or_revoked_counts_at_once(client: TestClient, context: Context) -> None:
    assert client.get("/v1/trees").status_code == 200
    with context.database.write() as db:
        token = tokens.create(db, name="", scope=READ, namespaces=["*"], now=0)
    assert client.get("/v1/trees").status_code == 401
    headers = {"Authorization": f"Bearer {token.text}"}
    assert client.get("/v1/trees", headers=headers).status_code == 200
    assert client.post("/v1/lookup", json=ASKED, headers=headers).status_code == 404
    with context.database.write() as db:
        tokens.revoke(db, token.id, 1)
    assert client.get("/v1/trees", headers=headers).status_code == 401
    assert client.post("/v1/lookup", json=ASKED, headers=headers).status_code == 401
    # Health says nothing of what is stored.
    assert client.get("/livez").status_code == 200


def test_a_service_that_knew_tokens_is_not_open_when_they_are_gone(
    client: TestClient, context: Context, asks: Asks
) -> None:
    """The database was replaced by an empty one."""
    asks(CALLS[0], READ, "*")
    with context.database.write() as db:
        db.execute(delete(TokenRow))
    assert client.get("/v1/trees").status_code == 401


def test_a_token_that_asks_too_often_is_told_so(client: TestClient, context: Context) -> None:
    with context.database.write() as db:
        token = tokens.create(db, name="", scope=READ, namespaces=["*"], now=0)
    headers = {"Authorization": f"Bearer {token.text}"}
    context.gate.__self__._limit._rate = 1  # type: ignore[attr-defined]
    answers = [client.post("/v1/lookup", json=ASKED, headers=headers) for _ in range(12)]
    assert [answer.status_code for answer in answers[:10]] == [404] * 10
    assert answers[-1].status_code == 429
    assert answers[-1].headers["retry-after"] == "1"
    assert answers[-1].json()["code"] == "rate_limited"
