"""The index rebuilt from storage, and its pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aotcache.errors import (
    UsageError,
)
from aotcache.protocol.names import (
    INDUCTOR,
    deleted_key,
    new_publish_id,
)
from aotcache.protocol.v1.trees import SORTS, TreeSummary
from aotcache.storage import ObjectStore
from aotcache_service.index.database import Database
from aotcache_service.index.listing import Filter, list_trees
from support.indexed import TREE, hit, miss, page, publish, rebuild, rebuild_counted
from support.stored import (
    OTHER_PLATFORM,
    RANK,
    RECIPE,
    key_of,
    make_manifest,
    make_pack,
    put_part,
)


def fill(database: Database, store: ObjectStore) -> None:
    for number in range(7):
        publish(
            database,
            store,
            b"x" * (1 + number % 3),
            tree_hash=f"{number:x}" * 64,
            namespace="team" if number % 2 else "default",
            created=100 + number // 2,
            recipe=RECIPE if number % 3 else None,
        )
    publish(database, store, b"rank", tree_hash="0" * 64, part=RANK, created=50, publisher="late")
    publish(database, store, b"grown", tree_hash="2" * 64, generation=2, created=700)


def test_reindex_gives_the_same_list(
    new_database: Callable[[], Database], database: Database, store: ObjectStore
) -> None:
    fill(database, store)
    rebuilt = new_database()
    for _ in range(2):
        assert rebuild_counted(rebuilt, store) == (7, 8, 0)
        for sort in SORTS:
            # Cursors hold row ids, which a rebuild may give differently.
            before, after = page(database, sort=sort), page(rebuilt, sort=sort)
            key = lambda tree: (getattr(tree, sort), tree.hash)  # noqa: B023, E731
            assert sorted(after.trees, key=key) == sorted(before.trees, key=key)
    assert rebuild_counted(database, store) == (7, 8, 0)


def test_reindex_skips_what_cannot_be_read(database: Database, store: ObjectStore) -> None:
    put_part(store)
    damaged, _ = make_manifest(part=RANK)
    store.put(key_of(damaged), b"damaged")
    put_part(store, b"gone", tree_hash="b" * 64, pack=make_pack(b"gone", new_publish_id()))
    store.put("default/trees/notes.txt", b"somebody's")
    for _ in range(2):
        assert rebuild_counted(database, store) == (1, 1, 2)


def test_reindex_over_an_existing_database_repairs_it(
    database: Database, store: ObjectStore
) -> None:
    first = publish(database, store)
    publish(database, store, generation=2)
    gone = publish(database, store, tree_hash="b" * 64)
    newest = hit(database).parts[0].manifest
    store.delete(newest)
    store.delete(gone)
    put_part(store, tree_hash="c" * 64)
    assert rebuild_counted(database, store) == (2, 2, 0)
    assert hit(database).parts[0].manifest == first
    # A deletion that another database was told of.
    store.put(deleted_key(TREE, "shared", 2), b"")
    assert rebuild(database, store).trees == 1
    assert miss(database).reason == "unknown_hash"


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", SORTS)
def test_pages_cover_every_tree_once(
    database: Database, store: ObjectStore, sort: str, order: str
) -> None:
    fill(database, store)
    seen: list[TreeSummary] = []
    cursor = ""
    while True:
        part = page(database, sort=sort, order=order, cursor=cursor, limit=2)
        seen += part.trees
        if not (cursor := part.cursor):
            break
        assert len(part.trees) == 2
    assert len({(tree.namespace, tree.hash) for tree in seen}) == len(seen) == 7
    values = [getattr(tree, sort) for tree in seen]
    assert values == sorted(values, reverse=order == "desc")


def test_filters(database: Database, store: ObjectStore) -> None:
    fill(database, store)
    publish(database, store, layout=INDUCTOR, tree_hash="my-key", platform=OTHER_PLATFORM)

    def hashes(**about: Any) -> list[str]:
        with database.read() as db:
            return [tree.hash[:6] for tree in list_trees(db, Filter(**about), sort="hash").trees]

    assert len(hashes()) == len(hashes(namespaces=frozenset(("team", "default")))) == 8
    assert hashes(namespaces=frozenset(("team",))) == ["555555", "333333", "111111"]
    assert hashes(layout=INDUCTOR) == hashes(platform_id=OTHER_PLATFORM.id) == ["my-key"]
    assert hashes(hash="33") == ["333333"]
    assert hashes(hash="3x") == hashes(model="org/none") == []
    assert len(hashes(engine="vllm", model="org/model")) == 4


def test_bad_cursors_are_refused(database: Database, store: ObjectStore) -> None:
    fill(database, store)
    good = page(database, limit=1).cursor
    for cursor, sort in [("~", "created"), ("e30", "created"), ("W10", "created"), (good, "hash")]:
        with pytest.raises(UsageError, match="cursor"):
            page(database, cursor=cursor, sort=sort)
    for about in ({"sort": "id"}, {"order": "up"}, {"limit": 0}, {"limit": 501}):
        with pytest.raises(UsageError):
            page(database, **about)
