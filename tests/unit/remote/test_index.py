"""Each call of the index as it goes over the wire, and each answer back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import msgspec
import pytest

from aotcache.errors import (
    GenerationTakenError,
    InvalidNameError,
    NotFoundError,
    SessionExpiredError,
    UnavailableError,
)
from aotcache.net.http import HttpClient
from aotcache.protocol.names import REQUEST_ID, TreeKey
from aotcache.protocol.platform import Difference, Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import TreeUsed
from aotcache.protocol.v1.audit import Action, Audit
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss, StoredPart
from aotcache.protocol.v1.outcomes import Outcome
from aotcache.protocol.v1.problem import Problem
from aotcache.protocol.v1.publish import Commit, Committed, OpenSession, PartState, Session
from aotcache.protocol.v1.recipes import RecipeHit, RecipeLookup
from aotcache.protocol.v1.trees import Deleted, TreeDetail, TreeDetails, TreePage, TreeSummary
from aotcache.remote.index import Index
from support.http import Recorder, Reply, Request, serving

HASH = "a1" * 32
PUBLISH_ID = "b2" * 16
PLATFORM = Platform(**dict.fromkeys(Platform.__dataclass_fields__, "x"))
HIT = Hit(namespace="ns", layout="vllm-aot", hash=HASH, platform=PLATFORM.id, parts=())


@dataclass
class Wire:
    """What the server answers next, and what it was asked."""

    index: Index
    server: Recorder
    replies: list[Reply] = field(default_factory=list)

    def answer(self, body: object, status: int = 200) -> None:
        self.replies.append(Reply(status, msgspec.json.encode(body)))

    @property
    def asked(self) -> Request:
        return self.server.requests[-1]


@pytest.fixture
def wire() -> Iterator[Wire]:
    replies: list[Reply] = []
    with serving(lambda _: replies.pop(0)) as server:
        client = HttpClient(server.url)
        yield Wire(Index(client), server, replies)
        client.close()


def test_lookup(wire: Wire) -> None:
    asked = Lookup(layout="vllm-aot", hash=HASH, platform=PLATFORM, parts=("shared",))
    wire.answer(HIT)
    assert wire.index.lookup(asked) == HIT
    assert (wire.asked.method, wire.asked.path) == ("POST", "/v1/lookup")
    assert msgspec.json.decode(wire.asked.body, type=Lookup) == asked


def with_more(body: object) -> object:
    """As a newer service might answer: with a field that nobody knows, in each object (but of
    `urls`, which is a map)."""
    if isinstance(body, dict):
        known = {name: with_more(value) for name, value in body.items() if name != "urls"}
        return body | known | {"later": [{"x": 1}]}
    return [with_more(one) for one in body] if isinstance(body, list) else body


def test_fields_of_a_newer_service_are_ignored(wire: Wire) -> None:
    part = StoredPart(
        part="shared", generation=1, manifest="m", files=1, raw_bytes=1, stored_bytes=1
    )
    hit = replace(HIT, parts=(part,), trees=(TreeUsed(layout="vllm-aot", hash=HASH),))
    wire.answer(with_more(msgspec.to_builtins(hit)))
    asked = Lookup(layout="vllm-aot", hash=HASH, platform=PLATFORM)
    assert wire.index.lookup(asked) == hit
    state = PartState(part="shared", generation=0, next_generation=1)
    session = Session(publish_id=PUBLISH_ID, expires=1, parts=(state,))
    wire.answer(with_more(msgspec.to_builtins(session)))
    opening = OpenSession(
        publish_id=PUBLISH_ID, layout="vllm-aot", hash=HASH, platform=PLATFORM, parts=("shared",)
    )
    assert wire.index.open_session(opening) == session


def test_a_miss_is_a_result(wire: Wire) -> None:
    difference = Difference(field="torch", stored="2.9", asked="2.10")
    miss = Miss(reason="other_platform", message="m", differences=(difference,))
    wire.answer(miss, 404)
    asked = Lookup(layout="vllm-aot", hash=HASH, platform=PLATFORM)
    assert wire.index.lookup(asked) == miss
    wire.answer(miss, 404)
    recipe = RecipeLookup(recipe=Recipe(engine="vllm", model="a/b"), platform=PLATFORM)
    assert wire.index.lookup_recipe(recipe) == miss


def test_an_error_is_no_miss(wire: Wire) -> None:
    asked = Lookup(layout="vllm-aot", hash=HASH, platform=PLATFORM)
    wire.answer({"detail": "Not Found"}, 404)
    with pytest.raises(UnavailableError):
        wire.index.lookup(asked)
    wire.answer({"code": "miss", "message": "says no more"}, 404)
    with pytest.raises(UnavailableError):
        wire.index.lookup(asked)


def test_lookup_recipe(wire: Wire) -> None:
    hit = RecipeHit(recipe="c3", trees=(HIT,))
    wire.answer(hit)
    asked = RecipeLookup(recipe=Recipe(engine="vllm", model="a/b"), platform=PLATFORM)
    assert wire.index.lookup_recipe(asked) == hit
    assert (wire.asked.method, wire.asked.path) == ("POST", "/v1/recipes/lookup")


def test_trees(wire: Wire) -> None:
    wire.answer(TreePage(trees=(), cursor="next"))
    assert wire.index.trees() == TreePage(trees=(), cursor="next")
    assert (wire.asked.method, wire.asked.path) == ("GET", "/v1/trees")
    wire.answer(TreePage(trees=()))
    wire.index.trees(
        namespace="ns",
        layout="inductor",
        hash="a1",
        engine="vllm",
        model="org/name",
        platform=PLATFORM.id,
        sort="used",
        order="desc",
        cursor="a+b=",
        limit=7,
    )
    assert wire.asked.path == (
        "/v1/trees?namespace=ns&layout=inductor&hash=a1&engine=vllm&model=org%2Fname"
        f"&platform={PLATFORM.id}&sort=used&order=desc&cursor=a%2Bb%3D&limit=7"
    )


def test_one_hash(wire: Wire) -> None:
    wire.answer(TreeDetails(trees=()))
    assert wire.index.tree("my-key", layout="inductor") == TreeDetails(trees=())
    assert (wire.asked.method, wire.asked.path) == ("GET", "/v1/trees/my-key?layout=inductor")
    wire.answer(Deleted(trees=("t",)))
    got = wire.index.delete("../x", namespace="ns", layout="inductor", platform="p")
    assert got == Deleted(trees=("t",))
    query = "namespace=ns&layout=inductor&platform=p"
    assert (wire.asked.method, wire.asked.path) == ("DELETE", f"/v1/trees/..%2Fx?{query}")
    wire.answer(Problem(code="not_found", message="none"), 404)
    with pytest.raises(NotFoundError, match="none"):
        wire.index.tree("my-key")


def test_generations(wire: Wire) -> None:
    key = TreeKey(namespace="ns", layout="vllm-aot", hash=HASH, platform=PLATFORM.id)
    part = StoredPart(
        part="shared", generation=3, manifest="m", files=1, raw_bytes=2, stored_bytes=1
    )
    summary = TreeSummary(
        namespace="ns",
        layout="vllm-aot",
        hash=HASH,
        platform_id=PLATFORM.id,
        platform=PLATFORM,
        recipe=None,
        parts=("shared",),
        missing=(),
        files=1,
        raw_bytes=2,
        stored_bytes=1,
        compile_seconds=None,
        publisher="",
        created=0,
        used=0,
        lookups=0,
        outcomes={},
    )
    detail = TreeDetail(tree=summary, parts=(part,), hash_factors={}, notes={})
    wire.answer(TreeDetails(trees=(detail,)))
    assert wire.index.generations(key) == {"shared": 3}
    query = f"namespace=ns&layout=vllm-aot&platform={PLATFORM.id}"
    assert (wire.asked.method, wire.asked.path) == ("GET", f"/v1/trees/{HASH}?{query}")
    wire.answer(Problem(code="not_found", message="none"), 404)
    assert wire.index.generations(key) == {}


def test_audit(wire: Wire) -> None:
    action = Action(
        id=7, at=5, token="t", way="api", namespace="ns", action="pin", what="x", outcome="done"
    )
    wire.answer(Audit(actions=(action,)))
    assert wire.index.audit("ns", before=8, limit=1).actions == (action,)
    assert wire.asked.path == "/v1/audit?namespace=ns&before=8&limit=1"
    wire.answer(Audit(actions=()))
    assert wire.index.audit().actions == ()
    assert wire.asked.path == "/v1/audit?before=0&limit=100"


def test_publish(wire: Wire) -> None:
    asked = OpenSession(
        publish_id=PUBLISH_ID, layout="vllm-aot", hash=HASH, platform=PLATFORM, parts=("shared",)
    )
    session = Session(publish_id=PUBLISH_ID, expires=1, parts=())
    wire.answer(session, 201)
    assert wire.index.open_session(asked) == session
    assert (wire.asked.method, wire.asked.path) == ("POST", "/v1/publish")
    assert msgspec.json.decode(wire.asked.body, type=OpenSession) == asked
    key = f"ns/trees/vllm-aot/{HASH}/{PLATFORM.id}/shared/00000001.manifest"
    wire.answer(Committed(manifests=(key,)))
    assert wire.index.commit(PUBLISH_ID, Commit(manifests=(key,))) == Committed(manifests=(key,))
    path = f"/v1/publish/{PUBLISH_ID}/commit"
    assert (wire.asked.method, wire.asked.path) == ("POST", path)


@pytest.mark.parametrize("kind", [GenerationTakenError, SessionExpiredError])
def test_a_commit_that_fails(
    wire: Wire, kind: type[GenerationTakenError] | type[SessionExpiredError]
) -> None:
    wire.answer(Problem(code=kind.code, message="again"), 409)
    with pytest.raises(kind, match="again"):
        wire.index.commit(PUBLISH_ID, Commit(manifests=()))


def test_a_publish_id_is_checked_before_it_becomes_a_path(wire: Wire) -> None:
    with pytest.raises(InvalidNameError):
        wire.index.commit("../trees", Commit(manifests=()))
    assert wire.server.requests == []


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_outcome(wire: Wire, body: bytes) -> None:
    outcome = Outcome(
        layout="vllm-aot",
        hash=HASH,
        platform=PLATFORM.id,
        part="shared",
        generation=1,
        outcome="loaded",
    )
    wire.replies.append(Reply(200, body))
    wire.index.outcome(outcome)
    assert (wire.asked.method, wire.asked.path) == ("POST", "/v1/outcomes")
    assert json.loads(wire.asked.body)["outcome"] == "loaded"


def test_no_call_keeps_state(wire: Wire) -> None:
    calls: list[Callable[[], object]] = [wire.index.trees, wire.index.trees]
    for call in calls:
        wire.answer(TreePage(trees=()))
        call()
    ids, rest = [], []
    for asked in wire.server.requests:
        ids.append(asked.headers.pop(REQUEST_ID.lower()))
        rest.append(asked)
    assert len(set(ids)) == 2
    assert rest[0] == rest[1]
