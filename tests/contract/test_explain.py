"""Explained misses: the nearest stored tree, what differs, and which nodes miss for one cause."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from aotcache.errors import UsageError
from aotcache.protocol.manifest import encode_manifest, encode_statement
from aotcache.protocol.names import VLLM_AOT, pack_key
from aotcache.protocol.platform import Difference
from aotcache.protocol.record import MAX_FACTORS
from aotcache.protocol.v1.explain import Explain, Explanation
from aotcache.storage import DirectStore
from aotcache_service.index import misses
from aotcache_service.index.database import Database
from aotcache_service.index.explain import explain
from support.indexed import NOW, finish
from support.stored import HASH, OTHER_PLATFORM, PLATFORM, RECIPE, key_of, make_manifest

MISSED = "b" * 64
DAY = 24 * 3600
FACTORS = {
    "env": "1",
    "env.VLLM_A": '"x"',
    "config": "5",
    "config.model_config": "6",
    "forward": "7",
}
ASKED = Explain(
    layout=VLLM_AOT, hash=MISSED, platform=PLATFORM, recipe=RECIPE, hash_factors=FACTORS, node="n1"
)


def store_tree(
    database: Database, store: DirectStore, factors: dict[str, str] = FACTORS, **about: object
) -> None:
    statement, locations = make_manifest(**{"recipe": RECIPE, **about})  # type: ignore[arg-type]
    statement = msgspec.structs.replace(statement, hash_factors=factors)
    store.put(pack_key(statement.namespace, locations.packs[0].name), b"content")
    store.put(key_of(statement), encode_manifest(encode_statement(statement), locations, ()))
    finish(database, store, key_of(statement))


def explained(database: Database, asked: Explain = ASKED) -> Explanation:
    with database.read() as db:
        return explain(db, asked)


def test_the_factor_that_differs_is_named(database: Database, store: DirectStore) -> None:
    store_tree(database, store, FACTORS | {"env": "2", "env.VLLM_A": '"y"'})
    store_tree(database, store, FACTORS | {"forward": "8", "config": "9"}, tree_hash="c" * 64)
    found = explained(database)
    assert (found.reason, found.cause) == ("unknown_hash", "env.VLLM_A")
    assert found.nearest is not None
    assert (found.nearest.hash, found.nearest.known) == (HASH, True)
    # The digest over all variables says nothing more.
    assert found.nearest.factor_differences == (
        Difference(field="env.VLLM_A", stored='"y"', asked='"x"'),
    )
    # What only one of them has differs too.
    only = explained(database, replace(ASKED, hash_factors=FACTORS | {"env.VLLM_B": "1"}))
    assert only.cause == "env.VLLM_A, env.VLLM_B"


def test_another_platform_and_another_recipe(database: Database, store: DirectStore) -> None:
    store_tree(database, store, tree_hash=MISSED, platform=OTHER_PLATFORM)
    found = explained(database)
    assert (found.reason, found.cause) == ("other_platform", "platform device, platform arch")
    assert found.nearest is not None
    assert found.nearest.hash == MISSED
    asked = replace(ASKED, hash="d" * 64, platform=OTHER_PLATFORM)
    shorter = replace(RECIPE, dtype="float16", extra={"max_model_len": "1024"})
    found = explained(database, replace(asked, recipe=shorter))
    assert found.cause == "recipe dtype, recipe extra.max_model_len"
    assert found.nearest is not None
    assert found.nearest.recipe_differences[0].stored == "bfloat16"


def test_what_is_not_known_is_not_compared(database: Database, store: DirectStore) -> None:
    assert explained(database).nearest is None
    assert explained(database).cause == "unknown_hash"
    store_tree(database, store, {})
    found = explained(database)
    assert found.nearest is not None
    assert (found.nearest.known, found.nearest.factor_differences) == (False, ())
    assert found.cause == "unknown_hash"
    # Nothing of its model, and nothing at all of another namespace.
    assert explained(database, replace(ASKED, recipe=replace(RECIPE, model="m"))).nearest is None
    assert explained(database, replace(ASKED, recipe=None)).nearest is None
    assert explained(database, replace(ASKED, namespace="team")).nearest is None


def test_what_is_stored_by_now(database: Database, store: DirectStore) -> None:
    store_tree(database, store)
    assert explained(database, replace(ASKED, hash=HASH)).reason == "hit"


def miss(database: Database, asked: Explain, now: int = NOW) -> None:
    said = explained(database, asked)
    with database.write() as db:
        misses.record(db, asked, said, now)


def test_nodes_are_grouped_by_why(database: Database, store: DirectStore) -> None:
    store_tree(database, store)
    for number in range(40):
        one = FACTORS | {"env": str(number), "env.VLLM_RAY_BUNDLE_INDICES": str(number)}
        miss(database, replace(ASKED, hash=f"{number:064x}", hash_factors=one, node=f"ray{number}"))
    miss(database, replace(ASKED, platform=OTHER_PLATFORM, hash=HASH, node="a100"), NOW + 5)
    miss(database, replace(ASKED, platform=OTHER_PLATFORM, hash=HASH, node="a100"), NOW + 6)
    miss(database, replace(ASKED, namespace="team", node="theirs"))
    with database.read() as db:
        ray, other = misses.groups(db, ["default"], NOW + 10).groups
        every = misses.groups(db, None, NOW + 10).groups
        assert misses.groups(db, None, NOW + 8 * DAY).groups == ()
    assert (ray.nodes, ray.misses, ray.cause) == (40, 40, "env.VLLM_RAY_BUNDLE_INDICES")
    assert ray.model == RECIPE.model
    assert (other.nodes, other.misses, other.last, other.node) == (1, 2, NOW + 6, "a100")
    assert other.reason == "other_platform"
    assert [one.field for one in other.differences] == ["device", "arch"]
    assert {group.cause for group in every} >= {"unknown_hash"}


def test_old_misses_are_forgotten(database: Database) -> None:
    miss(database, ASKED, NOW)
    miss(database, replace(ASKED, node="n2"), NOW + 8 * DAY)
    with database.read() as db:
        (group,) = misses.groups(db, None, NOW + 8 * DAY).groups
    assert (group.nodes, group.node) == (1, "n2")


def test_bounds() -> None:
    many = {str(number): "" for number in range(MAX_FACTORS + 1)}
    large = {str(number): "x" * 4000 for number in range(300)}
    for wrong in (
        {"hash_factors": many},
        {"hash_factors": {"a": "x" * 5000}},
        {"hash_factors": large},
        {"node": "n" * 256},
    ):
        with pytest.raises(UsageError, match="at most"):
            replace(ASKED, **wrong)  # type: ignore[arg-type]


def test_misses_take_bounded_room(
    database: Database, store: DirectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(misses, "MAX_ROWS", 20)
    store_tree(database, store, FACTORS | {"env.VLLM_A": "y" * 4000})
    said = explained(database)
    for number in range(50):
        with database.write() as db:
            misses.record(db, replace(ASKED, node=f"n{number}"), said, NOW + number)
    with database.read() as db:
        (group,) = misses.groups(db, None, NOW + 50).groups
    assert (18 <= group.nodes <= 20, group.node) == (True, "n49")
    assert group.some_nodes[:2] == ("n49", "n48")
    assert group.nearest == {"layout": VLLM_AOT, "hash": HASH, "platform": PLATFORM.id}
    assert group.differences[0].stored == "y" * 300
