"""Pins win, whatever else is under way, and whatever was lost. On both databases."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from aotcache.errors import NotFoundError, PinnedError
from aotcache.protocol.v1.collect import Collected, Keep
from aotcache.storage import DirectStore
from aotcache_service.index.database import Database
from aotcache_service.index.listing import Filter
from aotcache_service.ops.collect import collect
from aotcache_service.ops.delete import delete_trees
from aotcache_service.ops.pin import pin, unpin
from support.indexed import NOW, hit, publish, rebuild
from support.killed import Killed, KilledAt
from support.stored import HASH

RANK = "rank_0_0-d0"
GRACE = 1000
DAY = 24 * 3600
LATER = NOW + 10 * DAY  # all sessions are over
ALL = Keep()


def run(
    database: Database,
    store: DirectStore,
    keep: Keep = ALL,
    *,
    now: int = LATER,
    dry_run: bool = False,
) -> Collected:
    return collect(database, store, keep, clock=lambda: now, grace=GRACE, dry_run=dry_run)


def of_hash(tree: str) -> Filter:
    return Filter(namespaces=frozenset(("default",)), hash=tree)


def test_a_pin_outlives_the_index_and_ends_deletions(
    new_database: Callable[[], Database], database: Database, store: DirectStore
) -> None:
    publish(database, store)
    assert pin(database, store, of_hash(HASH)) == pin(database, store, of_hash(HASH))
    with pytest.raises(PinnedError, match="`aotcache unpin` it first"):
        delete_trees(database, store, "default", HASH)
    fresh = new_database()
    rebuild(fresh, store)
    with pytest.raises(PinnedError):
        delete_trees(fresh, store, "default", HASH)
    assert hit(fresh)
    unpin(fresh, store, of_hash(HASH))
    delete_trees(fresh, store, "default", HASH)
    with pytest.raises(NotFoundError):
        pin(fresh, store, of_hash(HASH))
    assert not list(store.list("default/marks/pinned/"))


class PinnedMeanwhile(KilledAt):
    """Somebody pins the tree while its deletion puts marks."""

    def __init__(self, store: DirectStore, database: Database) -> None:
        super().__init__(store, 1 << 30)
        self._database = database

    def put(self, key: str, data: bytes | memoryview) -> None:
        super().put(key, data)
        pin(self._database, self._store, of_hash(HASH))


def test_a_pin_wins_against_a_deletion_that_has_begun(
    database: Database, store: DirectStore
) -> None:
    publish(database, store)
    with pytest.raises(PinnedError):
        delete_trees(database, PinnedMeanwhile(store, database), "default", HASH)
    assert hit(database)
    assert list(store.list("default/marks/deleted/")) == []
    rebuild(database, store)
    assert hit(database)


def test_a_pin_wins_against_a_deletion_that_was_cut_off(
    database: Database, store: DirectStore, new_database: Callable[[], Database]
) -> None:
    publish(database, store)
    publish(database, store, part=RANK)
    for steps in itertools.count():
        with pytest.raises(Killed):
            delete_trees(database, KilledAt(store, steps), "default", HASH)
        if list(store.list("default/marks/deleted/")):
            break  # one of two
    pin(database, store, of_hash(HASH))
    for index in (database, new_database()):
        rebuild(index, store)
        assert hit(index)
    assert list(store.list("default/marks/deleted/")) == []
    assert run(database, store, Keep(days=1), now=LATER + 9 * DAY).deleted_trees == 0


def test_a_lost_index_keeps_pins_and_lets_them_go(
    database: Database, store: DirectStore, new_database: Callable[[], Database]
) -> None:
    publish(database, store)
    pin(database, store, of_hash(HASH))
    lost = new_database()
    with pytest.raises(PinnedError):
        delete_trees(lost, store, "default", HASH)
    with pytest.raises(NotFoundError):
        unpin(lost, store, of_hash("c" * 64))
    unpin(lost, store, of_hash(HASH))
    delete_trees(lost, store, "default", HASH)
    assert list(store.list("default/trees/")) == []


class DeletedMeanwhile(KilledAt):
    """Somebody deletes the tree before its pin is in the index."""

    def __init__(self, store: DirectStore, database: Database) -> None:
        super().__init__(store, 1 << 30)
        self._database = database

    def put(self, key: str, data: bytes | memoryview) -> None:
        delete_trees(self._database, self._store, "default", HASH)
        super().put(key, data)


def test_a_pin_that_came_too_late_leaves_no_mark(database: Database, store: DirectStore) -> None:
    publish(database, store)
    with pytest.raises(NotFoundError, match="deleted meanwhile"):
        pin(database, DeletedMeanwhile(store, database), of_hash(HASH))
    assert list(store.list("default/marks/pinned/")) == []
