"""What is deleted stays deleted, wherever it is cut off."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from aotcache.errors import (
    GenerationTakenError,
    NotFoundError,
)
from aotcache.protocol.names import (
    INDUCTOR,
    VLLM_AOT,
    deleted_key,
)
from aotcache.protocol.v1.lookup import Miss
from aotcache.protocol.v1.publish import Commit, PartState
from aotcache.storage import ObjectStore, open_store
from aotcache_service.index.database import Database
from aotcache_service.ops.delete import delete_trees
from aotcache_service.ops.publish import commit
from support.indexed import (
    NOW,
    TREE,
    begin,
    finish,
    hit,
    look_up,
    miss,
    page,
    publish,
    rebuild,
    rebuild_counted,
)
from support.killed import Killed, KilledAt
from support.stored import (
    HASH,
    OTHER_PLATFORM,
    PLATFORM,
    RANK,
    put_part,
)


def test_deleted_stays_deleted(
    new_database: Callable[[], Database], database: Database, store: ObjectStore
) -> None:
    publish(database, store)
    publish(database, store, generation=2)
    # Put, but its publisher died before the commit.
    put_part(store, part=RANK)
    assert delete_trees(database, store, "default", HASH).trees == (f"default/{TREE.path}",)
    assert miss(database).reason == "unknown_hash"
    assert page(database).trees == ()
    assert list(store.list("default/trees/")) == []
    for one in (database, new_database()):
        assert rebuild_counted(one, store) == (0, 0, 0)
        states = begin(one, store, parts=("shared", RANK)).parts
        assert [(state.generation, state.next_generation) for state in states] == [(0, 3), (0, 2)]
        with pytest.raises(NotFoundError):
            delete_trees(one, store, "default", HASH)


def test_republished_after_deletion_with_a_higher_generation(
    new_database: Callable[[], Database], database: Database, store: ObjectStore
) -> None:
    old = publish(database, store)
    delete_trees(database, store, "default", HASH)
    put_part(store)
    with pytest.raises(GenerationTakenError, match="the next is 2"):
        finish(database, store, old)
    publish(database, store, b"new", generation=2)
    assert hit(database).parts[0].generation == 2
    rebuilt = new_database()
    rebuild(rebuilt, store)
    assert page(rebuilt) == page(database)


def test_a_lost_database_is_told_of_deletions_by_the_next_publish(
    new_database: Callable[[], Database], database: Database, store: ObjectStore
) -> None:
    publish(database, store)
    publish(database, store, generation=2)
    publish(database, store, part=RANK)
    delete_trees(database, store, "default", HASH)
    lost = new_database()
    (state,) = begin(lost, store).parts
    assert state == PartState(part="shared", generation=0, next_generation=3)
    # Also a part that the session did not ask about.
    late = new_database()
    session = begin(late, store, parts=())
    again = Commit(manifests=(put_part(store, part=RANK),))
    with pytest.raises(GenerationTakenError, match="the next is 2"):
        commit(late, store, session.publish_id, again, now=NOW)
    publish(lost, store, b"new", generation=3)
    assert rebuild_counted(lost, store) == (1, 1, 0)
    assert hit(lost).parts[0].generation == 3


def test_deletion_that_was_killed_is_completed_without_its_database(
    database: Database, store: ObjectStore
) -> None:
    put_part(store)
    store.put(deleted_key(TREE, "shared", 5), b"")  # the higher ones are gone already
    delete_trees(database, store, "default", HASH)
    assert begin(database, store).parts[0].next_generation == 6


def test_deletes_what_was_never_committed(
    new_database: Callable[[], Database], database: Database, store: ObjectStore
) -> None:
    left = put_part(store, platform=OTHER_PLATFORM)
    for about in ({}, {"part": RANK}, {"layout": INDUCTOR}):
        put_part(store, **about)  # type: ignore[arg-type]
    key = f"default/{{}}/{HASH}/{PLATFORM.id}"
    gone = delete_trees(database, store, "default", HASH, platform=PLATFORM.id)
    assert gone.trees == (key.format(INDUCTOR), key.format(VLLM_AOT))
    assert [found.key for found in store.list("default/trees/")] == [left]
    with pytest.raises(NotFoundError):
        delete_trees(database, store, "default", HASH, layout=INDUCTOR)
    rebuilt = new_database()
    assert rebuild(rebuilt, store).trees == 1
    states = begin(rebuilt, store, parts=("shared", RANK)).parts
    assert [state.next_generation for state in states] == [2, 2]


def test_deletes_only_the_layout_and_platform_asked_for(
    database: Database, store: ObjectStore
) -> None:
    publish(database, store)
    publish(database, store, platform=OTHER_PLATFORM)
    publish(database, store, layout=INDUCTOR)
    delete_trees(database, store, "default", HASH, layout=VLLM_AOT, platform=PLATFORM.id)
    left = {(tree.layout, tree.platform_id) for tree in page(database).trees}
    assert left == {(VLLM_AOT, OTHER_PLATFORM.id), (INDUCTOR, PLATFORM.id)}


def test_deletion_killed_at_any_step_is_whole_or_completed(
    new_database: Callable[[], Database], database: Database, tmp_path: Path
) -> None:
    for steps in itertools.count():
        store = open_store((tmp_path / f"store-{steps}").as_uri())
        tree = f"{steps:064x}"
        publish(database, store, tree_hash=tree)
        publish(database, store, tree_hash=tree, generation=2)
        publish(database, store, tree_hash=tree, part=RANK)
        try:
            delete_trees(database, KilledAt(store, steps), "default", tree)
        except Killed:
            found = look_up(database, hash=tree)
            assert isinstance(found, Miss) or len(found.parts) == 2
            # The same call again completes it.
            delete_trees(database, store, "default", tree)
        else:
            assert steps > 6, "one step for each mark and manifest at least"
            break
        assert miss(database, hash=tree).reason == "unknown_hash"
        assert rebuild(new_database(), store).trees == 0
