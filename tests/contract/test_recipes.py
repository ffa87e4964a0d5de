"""A node that knows only its recipe finds every tree that starts of it used, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import select

from aotcache.errors import UsageError
from aotcache.protocol.names import VLLM_AOT, VLLM_JIT, TreeKey
from aotcache.protocol.platform import Difference, Platform
from aotcache.protocol.recipe import MAX_EXTRA, MAX_TEXT, Recipe
from aotcache.protocol.record import MAX_TREES_USED, TreeUsed
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss
from aotcache.protocol.v1.recipes import MAX_TREES, RecipeHit, RecipeLookup
from aotcache.storage import ObjectStore
from aotcache_service.index import lookup as lookups
from aotcache_service.index import recipes
from aotcache_service.index.database import Database
from aotcache_service.index.models import RecipeRow, recipe_trees
from aotcache_service.index.write import hide_generations
from aotcache_service.ops.delete import delete_trees
from support.indexed import publish, queries, rebuild
from support.stored import HASH, OTHER_PLATFORM, PLATFORM, RANK, RECIPE

DRAFT = "d" * 64
ENCODER = "e" * 64
JIT = "0123456789"
# What stands on a command line.
NAMED = Recipe(
    engine="vllm",
    model="org/model",
    tensor_parallel_size=0,
    pipeline_parallel_size=0,
    data_parallel_size=0,
)


def used(*hashes: str) -> tuple[TreeUsed, ...]:
    return tuple(
        TreeUsed(layout=VLLM_JIT if one == JIT else VLLM_AOT, hash=one, compile_seconds=1.0)
        for one in hashes
    )


def ask(
    database: Database, recipe: Recipe = NAMED, platform: Platform = PLATFORM, **about: str
) -> RecipeHit | Miss:
    with database.read() as db:
        found = recipes.lookup_recipe(db, RecipeLookup(recipe=recipe, platform=platform, **about))
    return found if isinstance(found, Miss) else found.hit


def hashes(database: Database, recipe: Recipe = NAMED, **about: Platform) -> list[str]:
    found = ask(database, recipe, **about)
    assert isinstance(found, RecipeHit), found
    return [tree.hash for tree in found.trees]


def miss(database: Database, recipe: Recipe = NAMED, platform: Platform = PLATFORM) -> Miss:
    found = ask(database, recipe, platform)
    assert isinstance(found, Miss), found
    return found


def links(database: Database) -> set[tuple[object, ...]]:
    """What leads where, without row ids."""
    with database.read() as db:
        rows = db.execute(
            select(
                RecipeRow.namespace, RecipeRow.name, recipe_trees.c.layout, recipe_trees.c.hash
            ).join(recipe_trees, recipe_trees.c.recipe_id == RecipeRow.id)
        )
        return {tuple(row) for row in rows}


def test_a_recipe_leads_to_every_tree_of_its_starts(database: Database, store: ObjectStore) -> None:
    assert miss(database).reason == "unknown_recipe"
    # The link is there before its tree; the draft's start of another recipe stored that one.
    publish(database, store, recipe=RECIPE, created=5, trees=used(HASH, DRAFT, ENCODER))
    assert hashes(database) == [HASH]
    publish(database, store, recipe=replace(RECIPE, model="org/draft"), tree_hash=DRAFT, created=3)
    publish(database, store, recipe=RECIPE, tree_hash=ENCODER, created=9)
    publish(database, store, recipe=replace(RECIPE, model="org/x"), tree_hash="c" * 64)
    found = ask(database, RECIPE)
    assert isinstance(found, RecipeHit)
    assert [tree.hash for tree in found.trees] == [ENCODER, HASH, DRAFT]
    assert found.recipe == RECIPE.id
    assert hashes(database) == [ENCODER, HASH, DRAFT]


def test_a_namespace_has_its_own_recipes(database: Database, store: ObjectStore) -> None:
    publish(database, store, recipe=RECIPE, trees=used(HASH, DRAFT))
    publish(database, store, recipe=RECIPE, tree_hash=DRAFT, namespace="team")
    found = ask(database, namespace="team")
    assert isinstance(found, RecipeHit)
    assert [(tree.namespace, tree.hash) for tree in found.trees] == [("team", DRAFT)]
    assert hashes(database) == [HASH]


def test_a_miss_says_which_fields_are_others(database: Database, store: ObjectStore) -> None:
    far = replace(RECIPE, tensor_parallel_size=4, dtype="float16", extra={"eager": "0"})
    near = replace(RECIPE, tensor_parallel_size=2)
    for at, recipe in enumerate((near, far)):
        publish(database, store, recipe=recipe, tree_hash=f"{at}" * 64, created=at)
    asked = replace(NAMED, tensor_parallel_size=1, dtype="bfloat16", quantization="")
    found = miss(database, asked)
    assert found.reason == "other_recipe"
    assert found.message == (
        "default/vllm org/model: stored only with another recipe: tensor_parallel_size 2 (asked 1)"
    )
    assert found.differences == (Difference(field="tensor_parallel_size", stored="2", asked="1"),)
    many = replace(far, extra={f"x{number}": "1" for number in range(9)}, revision="r")
    assert miss(database, many).message.endswith("; 5 more")
    assert miss(database, replace(NAMED, model="org/none")).reason == "unknown_recipe"
    assert miss(database, replace(NAMED, engine="sglang")).reason == "unknown_recipe"


def test_stored_only_for_another_platform(database: Database, store: ObjectStore) -> None:
    publish(database, store, recipe=RECIPE, platform=OTHER_PLATFORM)
    publish(database, store, recipe=RECIPE, platform=replace(OTHER_PLATFORM, torch="2"))
    found = miss(database)
    assert found.reason == "other_platform"
    assert [one.field for one in found.differences] == ["device", "arch"]
    assert "device NVIDIA A100-SXM4-80GB (here NVIDIA H100 80GB HBM3)" in found.message
    assert hashes(database, platform=OTHER_PLATFORM) == [HASH]


def test_of_several_recipes_the_last_published_comes_first(
    database: Database, store: ObjectStore
) -> None:
    old, new = replace(RECIPE, dtype="float16"), replace(RECIPE, dtype="float32")
    shared, first, second = DRAFT, "1" * 64, "2" * 64
    publish(database, store, recipe=old, tree_hash=first, created=10, trees=used(first, shared))
    publish(database, store, recipe=old, tree_hash=shared, created=40)
    publish(database, store, recipe=new, tree_hash=second, created=50, trees=used(shared, second))
    found = ask(database)
    assert isinstance(found, RecipeHit)
    assert [tree.hash for tree in found.trees] == [second, shared, first]
    assert found.recipe == new.id
    assert hashes(database, replace(NAMED, dtype="float16")) == [shared, first]
    # The old one is published again, for another platform: it is the last, and has trees here.
    publish(database, store, recipe=old, tree_hash=first, platform=OTHER_PLATFORM, created=60)
    again = ask(database)
    assert isinstance(again, RecipeHit)
    assert again.recipe == old.id
    assert [tree.hash for tree in again.trees] == [shared, first, second]
    # One that has none here is not the first.
    only = replace(RECIPE, dtype="int8")
    publish(database, store, recipe=only, tree_hash="3" * 64, platform=OTHER_PLATFORM, created=70)
    assert ask(database) == again


def test_an_answer_is_bounded_and_takes_few_queries(database: Database, store: ObjectStore) -> None:
    mine = replace(PLATFORM, cpu="avx512")
    for number in range(MAX_TREES + 2):
        recipe = replace(RECIPE, extra={"n": str(number)})
        name = f"{number:064x}"
        for platform in (PLATFORM, mine):
            publish(
                database,
                store,
                recipe=recipe,
                platform=platform,
                tree_hash=name,
                created=number,
                trees=used(name, "0" * 64),
            )
    with queries() as sent:
        found = hashes(database, platform=mine)
    assert len(sent) == 3, sent
    # A tree that every recipe used fills no places.
    last = [f"{number:064x}" for number in range(MAX_TREES + 1, 2, -1)]
    assert found[0] == last[0]
    assert sorted(found) == sorted([*last, "0" * 64])
    with queries() as sent, database.read() as db:
        asked = Lookup(layout=VLLM_AOT, hash=last[0], platform=mine)
        assert isinstance(lookups.lookup(db, asked), lookups.Found)
    assert len(sent) == 1, sent
    with queries() as sent:
        assert miss(database, replace(NAMED, dtype="x")).reason == "other_recipe"
    assert len(sent) == 1, sent


def test_a_hit_names_the_trees_that_travel_with_it(database: Database, store: ObjectStore) -> None:
    def beside(name: str, layout: str = VLLM_AOT) -> tuple[TreeUsed, ...]:
        with database.read() as db:
            found = lookups.lookup(db, Lookup(layout=layout, hash=name, platform=PLATFORM))
        assert isinstance(found, lookups.Found)
        by_recipe = ask(database)
        assert isinstance(by_recipe, RecipeHit)
        assert found.hit in by_recipe.trees
        return found.hit.trees

    publish(database, store, recipe=RECIPE, part=RANK, trees=used(HASH, JIT))
    assert beside(HASH) == used(JIT)
    publish(database, store, recipe=RECIPE, trees=used(DRAFT, HASH, JIT))
    assert set(beside(HASH)) == set(used(JIT, DRAFT))
    publish(
        database, store, recipe=RECIPE, layout=VLLM_JIT, tree_hash=JIT, part=RANK, trees=used(JIT)
    )
    assert beside(JIT, VLLM_JIT) == ()
    # What only older generations say is not what the newest bytes were compiled with.
    publish(database, store, recipe=RECIPE, generation=2, trees=used(HASH, ENCODER))
    assert set(beside(HASH)) == set(used(JIT, ENCODER))
    many = [f"{number:064x}" for number in range(MAX_TREES_USED)]
    publish(database, store, recipe=RECIPE, generation=3, trees=used(*many))
    assert len(beside(HASH)) == MAX_TREES_USED


def test_links_are_those_that_storage_tells(
    new_database: Callable[[], Database], database: Database, store: ObjectStore
) -> None:
    other = replace(RECIPE, dtype="float16")
    publish(database, store, recipe=RECIPE, trees=used(HASH, JIT))
    publish(database, store, recipe=other, part=RANK, trees=used(HASH, DRAFT))
    publish(database, store, recipe=RECIPE, tree_hash=ENCODER, trees=used(HASH))
    gone = publish(database, store, recipe=other, generation=2, trees=used(HASH, "1" * 64))
    publish(database, store, tree_hash="f" * 64, trees=used("2" * 64))  # of no recipe
    publish(database, store, recipe=RECIPE, namespace="team", trees=used(ENCODER))

    def rebuilt() -> set[tuple[object, ...]]:
        fresh = new_database()
        rebuild(fresh, store)
        return links(fresh)

    ours = ("default", RECIPE.id, VLLM_AOT)
    theirs = ("default", other.id, VLLM_AOT)
    assert (
        links(database)
        == rebuilt()
        == {
            (*ours, HASH),
            (*ours[:2], VLLM_JIT, JIT),
            (*ours, ENCODER),
            (*theirs, HASH),
            (*theirs, DRAFT),
            (*theirs, "1" * 64),
            ("team", RECIPE.id, VLLM_AOT, HASH),
            ("team", RECIPE.id, VLLM_AOT, ENCODER),
        }
    )
    store.delete(gone)
    rebuild(database, store)
    assert links(database) == rebuilt()
    assert (*theirs, "1" * 64) not in links(database)
    delete_trees(database, store, "default", HASH)
    assert (
        links(database)
        == rebuilt()
        == {
            (*ours, HASH),
            (*ours, ENCODER),
            ("team", RECIPE.id, VLLM_AOT, HASH),
            ("team", RECIPE.id, VLLM_AOT, ENCODER),
        }
    )
    assert miss(database, replace(NAMED, dtype="float16")).reason == "other_recipe"
    delete_trees(database, store, "default", ENCODER)
    # The recipe's row is left, and nothing that it leads to.
    assert miss(database).reason == "unknown_recipe"


def test_trees_that_are_being_deleted_are_not_found(database: Database, store: ObjectStore) -> None:
    publish(database, store, recipe=RECIPE)
    key = TreeKey(namespace="default", layout=VLLM_AOT, hash=HASH, platform=PLATFORM.id)
    with database.write() as db:
        hide_generations(db, key, {"shared": 1})
    assert miss(database).reason == "unknown_recipe"


def test_the_largest_recipe_is_stored_and_found(database: Database, store: ObjectStore) -> None:
    most = Recipe(
        engine="ö" * (MAX_TEXT // 2),
        model="m" * MAX_TEXT,
        extra={f"{number:03}": "x" * MAX_TEXT for number in range(MAX_EXTRA)},
    )
    publish(database, store, recipe=most)
    found = ask(database, most)
    assert isinstance(found, RecipeHit)
    assert [type(tree) for tree in found.trees] == [Hit]
    other = replace(most, extra=dict.fromkeys(most.extra, "y" * MAX_TEXT))
    assert len(miss(database, other).message) < 2000


def test_a_question_names_a_model() -> None:
    with pytest.raises(UsageError, match="names no model"):
        RecipeLookup(recipe=Recipe(engine="vllm"), platform=PLATFORM)
