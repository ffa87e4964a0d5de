"""Collecting: what is referred to is never lost, and all else goes. On both databases."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select, text

from aotcache.errors import CondemnedError
from aotcache.protocol.manifest import encode_manifest, encode_statement
from aotcache.protocol.names import (
    VLLM_AOT,
    TreeKey,
    manifest_key,
    new_publish_id,
    pack_key,
)
from aotcache.protocol.record import TreeUsed
from aotcache.protocol.v1.collect import Collected, Keep
from aotcache.protocol.v1.lookup import Lookup
from aotcache.protocol.v1.outcomes import Outcome
from aotcache.protocol.v1.publish import Commit
from aotcache.storage import DirectStore, open_store
from aotcache_service.index import lookup as lookups
from aotcache_service.index.database import Database
from aotcache_service.index.listing import Filter
from aotcache_service.index.models import PackRow, TreeRow
from aotcache_service.ops import quarantine
from aotcache_service.ops.collect import collect
from aotcache_service.ops.delete import delete_trees
from aotcache_service.ops.pin import pin, unpin
from aotcache_service.ops.publish import commit
from support.indexed import NOW, begin, finish, miss, publish, rebuild
from support.killed import Killed, KilledAt
from support.stored import HASH, PLATFORM, RECIPE, key_of, make_manifest, make_pack, put_part

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


def packs(store: DirectStore, namespace: str = "default") -> set[str]:
    return {found.key for found in store.list(f"{namespace}/packs/")}


def trees(database: Database) -> set[str]:
    """The starts of their hashes."""
    with database.read() as db:
        return {
            row[:4] for row in db.scalars(select(TreeRow.hash).where(TreeRow.hidden.is_(False)))
        }


def is_stored(database: Database, tree: str = HASH, *parts: str) -> bool:
    with database.read() as db:
        asked = Lookup(layout=VLLM_AOT, hash=tree, platform=PLATFORM, parts=parts)
        return isinstance(lookups.lookup(db, asked), lookups.Found)


def of_hash(tree: str) -> Filter:
    return Filter(namespaces=frozenset(("default",)), hash=tree)


def named(number: int) -> str:
    return f"{number:04x}" * 16


def test_packs_of_a_deleted_tree_go_after_the_grace(database: Database, store: DirectStore) -> None:
    publish(database, store, b"going")
    publish(database, store, b"staying", tree_hash="b" * 64)
    both = packs(store)
    delete_trees(database, store, "default", HASH)
    done = run(database, store)
    assert (done.condemned_packs, done.deleted_packs) == (1, 0)
    assert packs(store) == both
    early = run(database, store, now=LATER + GRACE - 1)
    assert (early.condemned_packs, early.deleted_packs) == (0, 0)
    done = run(database, store, now=LATER + GRACE)
    assert (done.deleted_packs, done.deleted_bytes, done.kept_bytes) == (1, 5, 7)
    assert len(packs(store)) == 1
    assert is_stored(database, "b" * 64)
    with database.read() as db:
        assert db.scalar(text("SELECT count(*) FROM packs")) == 1
    assert run(database, store, now=LATER + 9 * GRACE).deleted_packs == 0


def test_a_pack_that_another_tree_uses_stays(database: Database, store: DirectStore) -> None:
    shared = make_pack(b"of both", new_publish_id())
    store.put(pack_key("default", shared.name), b"of both")
    publish(database, store, b"of both", pack=shared)
    publish(database, store, b"of both", pack=shared, tree_hash="b" * 64)
    delete_trees(database, store, "default", HASH)
    assert run(database, store).condemned_packs == 0
    delete_trees(database, store, "default", "b" * 64)
    assert run(database, store).condemned_packs == 1


def test_what_an_open_session_pins_or_puts_stays(database: Database, store: DirectStore) -> None:
    publish(database, store, b"reused")
    session = begin(database, store, now=LATER)
    pack = make_pack(b"being put", session.publish_id)
    store.put(pack_key("default", pack.name), b"being put")
    # A part that is deleted while another publish of the tree reuses its packs.
    delete_trees(database, store, "default", HASH)
    assert run(database, store).condemned_packs == 0
    over = LATER + 3600
    assert run(database, store, now=over).condemned_packs == 2
    run(database, store, now=over + GRACE)
    assert packs(store) == set()


def test_a_commit_that_comes_too_late_is_refused_and_loses_nothing(
    database: Database, store: DirectStore
) -> None:
    """Its session ended, its packs were condemned; the publisher starts over under another id."""
    session = begin(database, store)
    pack = make_pack(b"late", session.publish_id)
    store.put(pack_key("default", pack.name), b"late")
    run(database, store)
    again = begin(database, store, session.publish_id, now=LATER)
    key = put_part(store, b"late", pack=pack)
    with pytest.raises(CondemnedError, match="publish again with a new id"):
        commit(database, store, again.publish_id, Commit(manifests=(key,)), now=LATER)
    run(database, store, now=LATER + GRACE)
    assert packs(store) == set()
    store.delete(key)  # as the publisher does with one that nobody can use
    publish(database, store, b"late")
    assert is_stored(database)


def test_packs_of_a_publisher_that_died_go(database: Database, store: DirectStore) -> None:
    pack = make_pack(b"never committed", new_publish_id())
    store.put(pack_key("team", pack.name), b"never committed")
    store.put("team/packs/ab/somebody-elses", b"not ours")
    assert run(database, store).condemned_bytes == 15
    run(database, store, now=LATER + GRACE)
    assert packs(store, "team") == {"team/packs/ab/somebody-elses"}


def test_a_lost_index_loses_nothing(
    new_database: Callable[[], Database], database: Database, store: DirectStore
) -> None:
    publish(database, store, b"1")
    publish(database, store, b"2", part=RANK)
    # Put, and not committed when its publisher died.
    put_part(store, b"3", part="rank_1_0-d1")
    before = packs(store)
    fresh = new_database()
    dry = run(fresh, store, dry_run=True)
    assert (dry.condemned_packs, dry.deleted_packs) == (0, 0)
    for now in (LATER, LATER + GRACE, LATER + 9 * GRACE):
        done = run(fresh, store, now=now)
        assert (done.condemned_packs, done.deleted_packs) == (0, 0)
    assert packs(store) == before
    assert is_stored(fresh, HASH, "shared", RANK, "rank_1_0-d1")


def test_beside_a_manifest_that_cannot_be_read_only_what_is_known_goes(
    new_database: Callable[[], Database], database: Database, store: DirectStore
) -> None:
    """It may be of a newer version, and refer to any pack."""
    publish(database, store, b"1")
    publish(database, store, b"2", namespace="team")
    delete_trees(database, store, "team", HASH)
    tree = TreeKey(namespace="default", layout=VLLM_AOT, hash="c" * 64, platform=PLATFORM.id)
    store.put(manifest_key(tree, "shared", 1), b"of a later version")
    store.delete(manifest_key(msgspec.structs.replace(tree, hash=HASH), "shared", 1))
    fresh = new_database()
    done = run(fresh, store)
    assert done.condemned_packs == 1, "the other namespace's"
    (warning,) = done.warnings
    assert "namespace default" in warning
    assert "c" * 64 in warning


def test_what_a_killed_deletion_left_goes(database: Database, store: DirectStore) -> None:
    publish(database, store, b"1")
    publish(database, store, b"2", part=RANK)
    for steps in itertools.count(2):
        with suppress(Killed):
            delete_trees(database, KilledAt(store, steps), "default", HASH)
        if not is_stored(database):
            break
    run(database, store)
    run(database, store, now=LATER + GRACE)
    assert packs(store) == set()
    assert not list(store.list("default/trees/"))


def used(database: Database, **last: int) -> None:
    """By the number of the tree, when it was looked up."""
    with database.write() as db:
        for name, when in last.items():
            row = db.scalar(select(TreeRow).where(TreeRow.hash == named(int(name[1:]))))
            assert row is not None
            row.used = when


def test_by_age_since_the_last_use(database: Database, store: DirectStore) -> None:
    for number in range(4):
        publish(database, store, b"x", tree_hash=named(number), created=LATER - number * DAY)
    used(database, t3=LATER - 1)
    keep = Keep(days=2)
    done = run(database, store, keep, now=LATER + DAY, dry_run=True)
    assert [(one.hash[:4], one.reason) for one in done.trees] == [
        ("0002", "not used for 3 days"),
    ]
    assert len(trees(database)) == 4
    pin(database, store, of_hash(named(2)))
    assert run(database, store, keep, now=LATER + DAY).deleted_trees == 0
    unpin(database, store, of_hash(named(2)))
    assert run(database, store, keep, now=LATER + DAY).deleted_trees == 1
    assert trees(database) == {"0000", "0001", "0003"}


def test_by_count_of_a_recipe(database: Database, store: DirectStore) -> None:
    other = replace(RECIPE, model="org/other")
    for number in range(5):
        recipe = other if number == 4 else RECIPE
        about = {"tree_hash": named(number), "created": NOW + number, "recipe": recipe}
        publish(database, store, b"x", **about)
    publish(database, store, b"x", tree_hash=named(5), created=1)
    used(database, t0=LATER)
    done = run(database, store, Keep(per_recipe=2))
    assert done.deleted_trees == 2
    assert trees(database) == {"0000", "0003", "0004", "0005"}


def test_by_count_of_a_recipe_whose_starts_use_several_trees(
    database: Database, store: DirectStore
) -> None:
    """Target and draft: what is kept starts warm."""
    for number in range(6):
        of_its_start = tuple(
            TreeUsed(layout=VLLM_AOT, hash=named(one))
            for one in (number // 2 * 2, number // 2 * 2 + 1)
        )
        about = {"tree_hash": named(number), "created": NOW + number, "recipe": RECIPE}
        publish(database, store, b"x", trees=of_its_start, **about)
    done = run(database, store, Keep(per_recipe=2), dry_run=True)
    assert [one.hash[:4] for one in done.trees] == ["0001", "0000"]
    done = run(database, store, Keep(per_recipe=1))
    assert "the 2 trees of a start of its recipe were used since" in done.trees[0].reason
    assert trees(database) == {"0004", "0005"}


def test_a_tree_that_is_used_during_a_collection_stays(
    database: Database, store: DirectStore
) -> None:
    for number in range(3):
        publish(database, store, bytes([number]), tree_hash=named(number), created=NOW + number)

    def use() -> None:
        """Once the first one is gone."""
        if "0000" not in trees(database):
            used(database, t2=LATER)

    keep = Keep(days=1)
    done = collect(database, store, keep, clock=lambda: LATER, grace=GRACE, go_on=use)
    assert done.deleted_trees == 2
    assert trees(database) == {"0002"}


def test_by_bytes_the_least_recently_used_first(database: Database, store: DirectStore) -> None:
    """A pack counts once, and is free when the last tree that uses it goes."""
    pack = make_pack(b"x" * 100, new_publish_id())
    store.put(pack_key("default", pack.name), b"x" * 100)
    for number in range(5):
        shared = pack if number in (0, 3) else None
        content = b"x" * 100 if shared else bytes([number]) * 100
        publish(
            database, store, content, pack=shared, tree_hash=named(number), created=NOW + number
        )
    assert run(database, store).kept_bytes == 400
    assert run(database, store, Keep(bytes=400)).deleted_trees == 0
    used(database, t1=LATER)
    dry = run(database, store, Keep(bytes=250), dry_run=True)
    # 0000 alone frees nothing, 0002 a hundred, 0003 what it shared with 0000.
    assert [one.hash[:4] for one in dry.trees] == ["0000", "0002", "0003"]
    pin(database, store, of_hash(named(2)))
    done = run(database, store, Keep(bytes=250))
    assert [one.hash[:4] for one in done.trees] == ["0000", "0003", "0004"]
    assert (done.kept_bytes, done.condemned_bytes) == (200, 200)
    assert trees(database) == {"0001", "0002"}


def test_a_dry_run_says_what_a_run_does_and_does_nothing(
    database: Database, store: DirectStore
) -> None:
    for number in range(3):
        publish(database, store, bytes([number]), tree_hash=named(number), created=NOW)
    delete_trees(database, store, "default", named(0))
    orphan = make_pack(b"orphan", new_publish_id())
    store.put(pack_key("default", orphan.name), b"orphan")
    objects = sorted(found.key for found in store.list(""))
    dry = run(database, store, dry_run=True)
    assert sorted(found.key for found in store.list("")) == objects
    with database.read() as db:
        assert db.scalars(select(PackRow.state).distinct()).all() == ["live"]
    done = run(database, store)
    assert replace(dry, dry_run=False, reconciled=done.reconciled) == done
    assert replace(dry.reconciled, dry_run=False) == done.reconciled
    assert (dry.condemned_packs, dry.condemned_bytes) == (2, 7)


def test_killed_at_any_step_the_next_goes_on(
    new_database: Callable[[], Database], tmp_path: Path
) -> None:
    for steps in itertools.count():
        database = new_database()
        store = open_store((tmp_path / f"store-{steps}").as_uri())
        for number in range(3):
            publish(database, store, bytes([number]), tree_hash=named(number), created=NOW)
        pin(database, store, of_hash(named(2)))
        delete_trees(database, store, "default", named(0))
        killing, keep, finished = KilledAt(store, steps), Keep(days=1), 0
        for now in (LATER, LATER + GRACE):
            try:
                collect(database, killing, keep, clock=partial(int, now), grace=GRACE)
                finished += 1
            except Killed:
                collect(database, store, keep, clock=partial(int, now), grace=GRACE)
        collect(database, store, keep, clock=lambda: LATER + 2 * GRACE, grace=GRACE)
        assert trees(database) == {"0002"}
        assert len(packs(store)) == 1
        assert is_stored(database, named(2))
        if finished == 2:
            assert steps > 4, "a mark, a manifest and two packs at least"
            break


def test_the_grace_begins_when_a_pack_is_condemned(database: Database, store: DirectStore) -> None:
    """A collection may take longer than the grace is."""
    publish(database, store)
    delete_trees(database, store, "default", HASH)
    slow = itertools.count(LATER, GRACE // 5)
    assert collect(database, store, ALL, clock=lambda: next(slow), grace=GRACE).condemned_packs == 1
    assert run(database, store, now=LATER + GRACE).deleted_packs == 0
    assert run(database, store, now=LATER + 2 * GRACE).deleted_packs == 1


def test_what_is_withheld_expires_too(database: Database, store: DirectStore) -> None:
    publish(database, store)
    crash = Outcome(
        layout=VLLM_AOT,
        hash=HASH,
        platform=PLATFORM.id,
        part="shared",
        generation=1,
        outcome="crashed",
        node="n1",
    )
    quarantine.tell(database, store, crash, token="", nodes=1, now=NOW)
    assert miss(database).reason == "quarantined"
    done = run(database, store, Keep(days=1), now=LATER + DAY)
    assert [gone.hash for gone in done.trees] == [HASH]
    assert list(store.list("default/trees/")) == []


def test_packs_of_what_may_come_back_stay(database: Database, store: DirectStore) -> None:
    """A manifest that lacks one pack keeps the others."""
    first, second = (make_pack(data, new_publish_id()) for data in (b"first", b"second"))
    for pack, data in ((first, b"first"), (second, b"second")):
        store.put(pack_key("default", pack.name), data)
    said, locations = make_manifest(b"first", pack=first)
    locations = msgspec.structs.replace(locations, packs=(*locations.packs, second))
    store.put(key_of(said), encode_manifest(encode_statement(said), locations, ()))
    finish(database, store, key_of(said))
    store.delete(pack_key("default", second.name))
    for number in range(3):
        done = run(database, store, now=LATER + number * GRACE)
    assert done.reconciled.skipped == (key_of(said),)
    store.put(pack_key("default", second.name), b"second")
    rebuild(database, store)
    assert is_stored(database)
    assert store.get(pack_key("default", first.name)) == b"first"


def test_a_dry_run_says_what_would_be_freed(database: Database, store: DirectStore) -> None:
    """By trees that are still there then; what others need too is not counted."""
    pack = make_pack(b"12345678", new_publish_id())
    store.put(pack_key("default", pack.name), b"12345678")
    publish(database, store, b"12345678", pack=pack, tree_hash=named(1), created=NOW)
    publish(database, store, b"own", part=RANK, tree_hash=named(1), created=NOW)
    publish(database, store, b"1234", pack=pack, tree_hash=named(2), created=LATER)
    keep = Keep(days=5)
    dry = run(database, store, keep, now=LATER, dry_run=True)
    assert (dry.deleted_trees, dry.condemned_packs, dry.condemned_bytes) == (1, 1, 3)
    assert dry.kept_bytes == 8
    done = run(database, store, keep, now=LATER)
    assert (done.condemned_packs, done.condemned_bytes, done.kept_bytes) == (1, 3, 8)
