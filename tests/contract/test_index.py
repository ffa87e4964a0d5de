"""The index does the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session as Transaction

from aotcache.errors import (
    CondemnedError,
    ForbiddenError,
    GenerationTakenError,
    ManifestError,
    NotFoundError,
    ObjectExistsError,
    ObjectMissingError,
    SessionExpiredError,
    UnauthenticatedError,
    UsageError,
)
from aotcache.protocol.manifest import decode_manifest
from aotcache.protocol.names import (
    INDUCTOR,
    VLLM_AOT,
    TreeKey,
    deleted_key,
    new_publish_id,
    pack_key,
)
from aotcache.protocol.platform import Difference
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss
from aotcache.protocol.v1.outcomes import Outcome
from aotcache.protocol.v1.publish import Commit, PartState, Session
from aotcache.protocol.v1.recipes import RecipeLookup
from aotcache.protocol.v1.trees import SORTS, TreePage, TreeSummary
from aotcache.storage import ObjectInfo, ObjectStore, open_store
from aotcache_service.auth import READ, Caller
from aotcache_service.index import lookup as lookups
from aotcache_service.index import recipes
from aotcache_service.index.database import Database
from aotcache_service.index.listing import Filter, list_trees, tree_details
from aotcache_service.index.models import Base, OutcomeRow, PartRow, SessionPackRow
from aotcache_service.index.usage import UsageCounter
from aotcache_service.index.write import condemn_unknown_pack, count_outcome
from aotcache_service.ops.delete import delete_trees
from aotcache_service.ops.publish import commit
from aotcache_service.ops.reindex import ReindexSummary, reindex
from support.indexed import NOW, begin, finish, publish
from support.stored import (
    HASH,
    OTHER_PLATFORM,
    PLATFORM,
    RECIPE,
    grown_part,
    key_of,
    make_manifest,
    make_pack,
    manifest_bytes,
    put_part,
)

RANK = "rank_0_0-d0"
TREE = TreeKey(namespace="default", layout=VLLM_AOT, hash=HASH, platform=PLATFORM.id)


def look_up(database: Database, **about: object) -> Hit | Miss:
    asked: dict[str, object] = {"layout": VLLM_AOT, "hash": HASH, "platform": PLATFORM, **about}
    with database.read() as db:
        found = lookups.lookup(db, Lookup(**asked))  # type: ignore[arg-type]
    return found if isinstance(found, Miss) else found.hit


def hit(database: Database, **about: object) -> Hit:
    found = look_up(database, **about)
    assert isinstance(found, Hit), found
    return found


def miss(database: Database, **about: object) -> Miss:
    found = look_up(database, **about)
    assert isinstance(found, Miss), found
    return found


def page(database: Database, **about: object) -> TreePage:
    with database.read() as db:
        return list_trees(db, Filter(), **about)  # type: ignore[arg-type]


def test_tables_are_those_of_the_models(database: Database) -> None:
    with database.read() as db:
        assert compare_metadata(MigrationContext.configure(db.connection()), Base.metadata) == []


def test_what_was_committed_is_found(database: Database, store: ObjectStore) -> None:
    about = {"expected_parts": ("shared", RANK), "compile_seconds": 42.5, "recipe": RECIPE}
    key = publish(database, store, b"hello", **about)
    found = hit(database)
    (part,) = found.parts
    assert (part.part, part.generation, part.manifest) == ("shared", 1, key)
    assert (part.files, part.raw_bytes, part.stored_bytes) == (1, 5, 5)
    assert found.missing == (RANK,)
    assert found.compile_seconds == 42.5
    with database.read() as db:
        (detail,) = tree_details(db, Filter(namespaces=frozenset(("default",)), hash=HASH)).trees
    assert detail.parts == found.parts
    assert detail.tree.recipe == RECIPE
    assert detail.tree.platform == PLATFORM
    assert (detail.hash_factors, detail.notes) == ({"env": "1"}, {"driver": "580"})


def test_miss_says_why(database: Database, store: ObjectStore) -> None:
    assert miss(database).reason == "unknown_hash"
    far = replace(OTHER_PLATFORM, python="cpython-3.12.1")
    publish(database, store, platform=far)
    publish(database, store, platform=OTHER_PLATFORM)
    other = miss(database)
    assert other.reason == "other_platform"
    assert other.differences == (
        Difference(field="device", stored=OTHER_PLATFORM.device, asked=PLATFORM.device),
        Difference(field="arch", stored="sm_80", asked="sm_90"),
    )
    publish(database, store)
    partly = miss(database, parts=("shared", RANK))
    assert (partly.reason, partly.missing, partly.available) == (
        "part_missing",
        (RANK,),
        ("shared",),
    )
    assert miss(database, namespace="other").reason == "unknown_hash"


def test_many_are_answered_together_and_each_by_itself(
    database: Database, store: ObjectStore
) -> None:
    publish(database, store, part=RANK)
    publish(database, store)
    publish(database, store, layout=INDUCTOR, tree_hash="broken")
    with database.write() as db:
        wrong = select(PartRow.id).where(PartRow.manifest.contains("/broken/"))
        db.execute(update(PartRow).where(PartRow.id.in_(wrong)).values(trees=[{"no": "tree"}]))
    hit = Lookup(layout=VLLM_AOT, hash=HASH, platform=PLATFORM)
    good = [
        hit,
        replace(hit, hash="b" * 64),
        replace(hit, platform=OTHER_PLATFORM),
        replace(hit, namespace="team"),
        replace(hit, parts=("shared", RANK)),
        replace(hit, parts=("rank_7_0-d7",)),
        hit,
    ]
    bad = replace(hit, layout=INDUCTOR, hash="broken")
    asked = [(one, "") for one in [*good, bad]] + [(hit, "refused"), (hit, "of another team")]

    def callers(_db: Transaction, headers: Sequence[str]) -> list[Caller | Exception]:
        known: dict[str, Caller | Exception] = {
            "": Caller(),
            "refused": UnauthenticatedError("nobody"),
            "of another team": Caller("id", READ, frozenset(("team",))),
        }
        return [known[header] for header in headers]

    *answers, broken, refused, forbidden = lookups.lookup_all(
        database, asked, callers, "s3://bucket"
    )
    assert isinstance(broken, msgspec.ValidationError)
    assert (str(refused), type(forbidden)) == ("nobody", ForbiddenError)
    with database.read() as db:
        assert answers == [lookups.lookup(db, one, "s3://bucket") for one in good]
    assert [getattr(one, "reason", "hit") for one in answers] == [
        "hit",
        "unknown_hash",
        "other_platform",
        "unknown_hash",
        "hit",
        "part_missing",
        "hit",
    ]
    assert lookups.lookup_all(database, [], callers, "") == []


def test_of_trees_for_this_cpu_and_for_any_the_fuller_is_found(
    database: Database, store: ObjectStore
) -> None:
    mine = replace(PLATFORM, cpu="avx512")
    other = "rank_1_0-d1"

    def by_recipe() -> str:
        with database.read() as db:
            found = recipes.lookup_recipe(db, RecipeLookup(recipe=RECIPE, platform=mine))
        assert isinstance(found, recipes.RecipeFound)
        (tree,) = found.hit.trees
        return tree.platform

    publish(database, store, recipe=RECIPE)
    publish(database, store, part=RANK)
    assert hit(database, platform=mine).platform == by_recipe() == PLATFORM.id
    publish(database, store, platform=mine, recipe=RECIPE)
    # It lacks the rank, the tree for any CPU has it.
    assert hit(database, platform=mine).platform == by_recipe() == PLATFORM.id
    assert hit(database, platform=mine, parts=(RANK,)).platform == PLATFORM.id
    lacking = miss(database, platform=mine, parts=("shared", RANK, other))
    assert (lacking.missing, lacking.available) == ((other,), (RANK, "shared"))
    # Both have what is asked for: the closer one.
    assert hit(database, platform=mine, parts=("shared",)).platform == mine.id
    publish(database, store, platform=mine, part=RANK)
    assert hit(database, platform=mine).platform == by_recipe() == mine.id
    assert hit(database, platform=replace(mine, cpu="sse")).platform == PLATFORM.id


def test_growth_serves_the_newest_generation(database: Database, store: ObjectStore) -> None:
    publish(database, store, b"one")
    publish(database, store, b"three", generation=2, created=2_000)
    (part,) = hit(database).parts
    assert (part.generation, part.raw_bytes) == (2, 5)
    (tree,) = page(database).trees
    assert (tree.created, tree.raw_bytes) == (2_000, 5)
    assert begin(database, store).parts == (
        PartState(part="shared", generation=2, next_generation=3, manifest=part.manifest),
    )


def test_frames_shared_by_parts_count_once(database: Database, store: ObjectStore) -> None:
    publish_id = new_publish_id()
    pack = make_pack(b"12345678", publish_id)
    first = put_part(store, b"12345678", publish_id=publish_id)
    second = put_part(store, b"12345678", publish_id=publish_id, part=RANK, pack=pack)
    finish(database, store, first, second)
    (tree,) = page(database).trees
    assert (tree.files, tree.raw_bytes, tree.stored_bytes) == (2, 16, 8)


def test_commit_fails_whole(database: Database, store: ObjectStore) -> None:
    good = put_part(store)
    gone = make_pack(b"gone", new_publish_id())
    bad = put_part(store, b"gone", part=RANK, pack=gone)
    with pytest.raises(CondemnedError, match="missing"):
        finish(database, store, good, bad)
    assert miss(database).reason == "unknown_hash"
    finish(database, store, good)
    assert hit(database).parts


def test_commit_refuses_a_torn_and_a_condemned_pack(database: Database, store: ObjectStore) -> None:
    torn = make_pack(b"whole", new_publish_id())
    store.put(pack_key("default", torn.name), b"who")
    with pytest.raises(CondemnedError, match="torn"):
        finish(database, store, put_part(store, b"whole", pack=torn))
    going = make_pack(b"going", new_publish_id())
    store.put(pack_key("default", going.name), b"going")
    with database.write() as db:
        assert condemn_unknown_pack(db, "default", going.name)
    with pytest.raises(CondemnedError, match="deleted"):
        finish(database, store, put_part(store, b"going", part=RANK, pack=going))


def test_commit_refuses_a_known_pack_that_storage_lost(
    database: Database, store: ObjectStore
) -> None:
    pack = make_pack(b"12345678", new_publish_id())
    place = pack_key("default", pack.name)
    store.put(place, b"12345678")
    finish(database, store, put_part(store, b"12345678", pack=pack))
    rank = put_part(store, b"12345678", part=RANK, pack=pack)
    store.delete(place)
    for why in ("missing", "torn"):
        with pytest.raises(CondemnedError, match=f"{RANK}: pack {pack.name[:12]} is {why}"):
            finish(database, store, rank)
        if why == "missing":
            store.put(place, b"1234")
    store.delete(place)
    store.put(place, b"12345678")
    finish(database, store, rank)
    assert len(hit(database).parts) == 2


def test_commit_refuses_a_manifest_that_is_missing_damaged_or_elsewhere(
    database: Database, store: ObjectStore
) -> None:
    statement, locations = make_manifest()
    with pytest.raises(ObjectMissingError):
        finish(database, store, key_of(statement))
    store.put(key_of(statement), b"{}\n")
    with pytest.raises(ManifestError):
        finish(database, store, key_of(statement))
    elsewhere = key_of(statement).replace("/shared/", f"/{RANK}/")
    store.put(elsewhere, manifest_bytes(statement, locations))
    with pytest.raises(ManifestError, match="another"):
        finish(database, store, elsewhere)


def test_commit_is_idempotent_even_without_its_session(
    database: Database, store: ObjectStore
) -> None:
    key = put_part(store)
    session = begin(database, store)
    body = Commit(manifests=(key,))
    for late in (0, 10, 10_000):
        done = commit(database, store, session.publish_id, body, now=NOW + late)
        assert done.manifests == (key,)
    assert len(hit(database).parts) == 1


def test_commit_takes_only_the_next_generation(database: Database, store: ObjectStore) -> None:
    early = put_part(store, generation=2)
    with pytest.raises(GenerationTakenError, match="the next is 1"):
        finish(database, store, early)
    first = put_part(store)
    finish(database, store, early, first)  # in whatever order they are named
    assert hit(database).parts[0].generation == 2


def test_of_two_sessions_that_race_one_wins(database: Database, store: ObjectStore) -> None:
    """Both were told generation 1. Storage lets one put it; only that one can be committed."""
    sessions = [begin(database, store), begin(database, store)]
    barrier = threading.Barrier(2)

    def race(session: Session) -> str:
        barrier.wait()
        try:
            key = put_part(store, b"by " + session.publish_id.encode(), publisher="racer")
        except ObjectExistsError:
            return ""
        commit(database, store, session.publish_id, Commit(manifests=(key,)), now=NOW)
        return key

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(race, sessions))
    assert sorted(map(bool, results)) == [False, True]
    assert hit(database).parts[0].manifest in results
    loser = sessions[results.index("")]
    (state,) = begin(database, store, loser.publish_id).parts
    assert state.next_generation == 2


def test_the_same_commit_from_many_adds_one_row(database: Database, store: ObjectStore) -> None:
    key = put_part(store)
    sessions = [begin(database, store) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        done = pool.map(
            lambda one: (
                commit(database, store, one.publish_id, Commit(manifests=(key,)), now=NOW).manifests
            ),
            sessions,
        )
        assert set(done) == {(key,)}
    assert len(hit(database).parts) == 1


def test_session_expires_and_is_resumed(database: Database, store: ObjectStore) -> None:
    key = put_part(store)
    body = Commit(manifests=(key,))
    session = begin(database, store)
    assert session.expires == NOW + 3600
    with pytest.raises(SessionExpiredError):
        commit(database, store, session.publish_id, body, now=session.expires)
    with pytest.raises(SessionExpiredError):
        commit(database, store, new_publish_id(), body, now=NOW)
    resumed = begin(database, store, session.publish_id, now=NOW + 3000)
    assert resumed.expires == NOW + 6600
    with pytest.raises(UsageError, match="another tree"):
        begin(database, store, session.publish_id, hash="b" * 64)
    commit(database, store, session.publish_id, body, now=NOW + 5000)


def test_session_pins_packs_of_parts_and_neighbours(database: Database, store: ObjectStore) -> None:
    shared = publish(database, store, b"shared", recipe=RECIPE)
    rank = publish(database, store, b"rank", part=RANK, recipe=RECIPE)
    hashes = ["b" * 64, "c" * 64, "d" * 64]
    family = replace(RECIPE, dtype="float16")
    others = [
        publish(database, store, tree.encode(), tree_hash=tree, recipe=family, created=at)
        for at, tree in enumerate(hashes)
    ]
    publish(database, store, b"s", tree_hash="e" * 64, recipe=replace(RECIPE, model="org/other"))
    publish(database, store, b"t", namespace="team", recipe=RECIPE)
    session = begin(database, store, recipe=RECIPE)
    assert session.parts[0].manifest == shared
    # The other part of the tree, then the two most recent trees of the family.
    assert session.neighbours == (rank, others[2], others[1])
    again = begin(database, store, session.publish_id, recipe=RECIPE)
    assert again.neighbours == session.neighbours
    with database.read() as db:
        pinned = select(func.count()).where(SessionPackRow.publish_id == session.publish_id)
        assert db.scalar(pinned) == 4


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
        assert reindex(one, store) == ReindexSummary(trees=0, parts=0, skipped=0)
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
    reindex(rebuilt, store)
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
    assert reindex(lost, store) == ReindexSummary(trees=1, parts=1, skipped=0)
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
    assert reindex(rebuilt, store).trees == 1
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


class Killed(BaseException):
    """Nothing in the code under test may catch it, as it could not a SIGKILL."""


class KilledAt:
    """A real store that ends its caller before the n-th call."""

    def __init__(self, store: ObjectStore, steps: int) -> None:
        self._store = store
        self._steps = itertools.count(-steps)
        self.url = store.url

    def _step(self) -> ObjectStore:
        if next(self._steps) == 0:
            raise Killed
        return self._store

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._step().put(key, data)

    def get(self, key: str) -> bytes:
        return self._step().get(key)

    def get_range(self, key: str, start: int, end: int) -> bytes:
        return self._step().get_range(key, start, end)

    def size(self, key: str) -> int:
        return self._step().size(key)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        return self._step().list(prefix, after)

    def delete(self, key: str) -> None:
        self._step().delete(key)

    def close(self) -> None:
        self._store.close()


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
        assert reindex(new_database(), store).trees == 0


def test_commit_killed_at_any_step_is_completed_by_the_next(
    database: Database, tmp_path: Path
) -> None:
    for steps in itertools.count():
        store = open_store((tmp_path / f"store-{steps}").as_uri())
        tree = f"{steps:064x}"
        keys = (put_part(store, tree_hash=tree), put_part(store, tree_hash=tree, part=RANK))
        session = begin(database, store, hash=tree)
        body = Commit(manifests=keys)
        try:
            commit(database, KilledAt(store, steps), session.publish_id, body, now=NOW)
        except Killed:
            found = look_up(database, hash=tree)
            assert isinstance(found, Miss) or len(found.parts) == 2
            commit(database, store, session.publish_id, body, now=NOW)
        else:
            assert steps >= 4, "a manifest and a pack each"
            break
        assert len(hit(database, hash=tree).parts) == 2


def test_a_commit_of_too_much_is_refused(
    database: Database, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of manifests, and of files that they list: all of them are in memory at once."""
    keys = [put_part(store, part=f"rank_{rank}_0-d0") for rank in range(3)]
    with pytest.raises(UsageError, match="at most 1024 manifests"):
        Commit(manifests=tuple(keys[:1] * 1025))
    session = begin(database, store)
    monkeypatch.setattr("aotcache_service.ops.publish._MAX_FILES", 2)
    body = Commit(manifests=tuple(keys))
    with pytest.raises(UsageError, match="lists at most 2 files: commit part by part"):
        commit(database, store, session.publish_id, body, now=NOW)
    assert miss(database).reason == "unknown_hash"
    fewer = Commit(manifests=tuple(keys[:2]))
    commit(database, store, session.publish_id, fewer, now=NOW)
    assert len(hit(database).parts) == 2


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
        assert reindex(rebuilt, store) == ReindexSummary(trees=7, parts=8, skipped=0)
        for sort in SORTS:
            # Cursors hold row ids, which a rebuild may give differently.
            before, after = page(database, sort=sort), page(rebuilt, sort=sort)
            key = lambda tree: (getattr(tree, sort), tree.hash)  # noqa: B023, E731
            assert sorted(after.trees, key=key) == sorted(before.trees, key=key)
    assert reindex(database, store) == ReindexSummary(trees=7, parts=8, skipped=0)


def test_reindex_skips_what_cannot_be_read(database: Database, store: ObjectStore) -> None:
    put_part(store)
    damaged, _ = make_manifest(part=RANK)
    store.put(key_of(damaged), b"damaged")
    put_part(store, b"gone", tree_hash="b" * 64, pack=make_pack(b"gone", new_publish_id()))
    store.put("default/trees/notes.txt", b"somebody's")
    for _ in range(2):
        assert reindex(database, store) == ReindexSummary(trees=1, parts=1, skipped=2)


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
    assert reindex(database, store) == ReindexSummary(trees=2, parts=2, skipped=0)
    assert hit(database).parts[0].manifest == first
    # A deletion that another database was told of.
    store.put(deleted_key(TREE, "shared", 2), b"")
    assert reindex(database, store).trees == 1
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


def test_lookups_are_counted_later_and_together(database: Database, store: ObjectStore) -> None:
    publish(database, store)
    with database.read() as db:
        found = lookups.lookup(db, Lookup(layout=VLLM_AOT, hash=HASH, platform=PLATFORM))
    assert isinstance(found, lookups.Found)
    usage = UsageCounter(database)
    usage.record(found.trees, 500)
    usage.record(found.trees, 400)
    usage.record([999_999], 400)  # deleted meanwhile
    assert page(database).trees[0].lookups == 0
    usage.flush()
    usage.flush()
    (tree,) = page(database).trees
    assert (tree.lookups, tree.used) == (2, 500)


def test_a_count_that_cannot_be_written_does_not_end_counting(
    database: Database, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    publish(database, store)
    with database.read() as db:
        found = lookups.lookup(db, Lookup(layout=VLLM_AOT, hash=HASH, platform=PLATFORM))
    assert isinstance(found, lookups.Found)
    usage = UsageCounter(database)
    usage.record([b"no number"], 500)  # type: ignore[list-item]
    usage.flush()
    assert "lookups of 1 trees are not counted" in caplog.text
    usage.record(found.trees, 500)
    usage.start()
    usage.close()
    assert page(database).trees[0].lookups == 1


class _Turns:
    """Of a thread that waits for its end: so many times in vain."""

    def __init__(self, turns: int) -> None:
        self.left = turns

    def wait(self, _seconds: float) -> bool:
        self.left -= 1
        return self.left < 0

    def set(self) -> None:
        self.left = 0


@pytest.mark.parametrize(("trees", "turns", "written"), [(1, 1, 1), (1000, 5, 0), (1000, 6, 1)])
def test_counts_of_many_trees_are_written_every_sixth_time(
    database: Database,
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    *,
    trees: int,
    turns: int,
    written: int,
) -> None:
    publish(database, store)
    with database.read() as db:
        found = lookups.lookup(db, Lookup(layout=VLLM_AOT, hash=HASH, platform=PLATFORM))
    assert isinstance(found, lookups.Found)
    usage = UsageCounter(database)
    usage.record((*found.trees, *range(10_000, 10_000 + trees - 1)), 500)
    monkeypatch.setattr(usage, "_stop", _Turns(turns))
    usage.start()
    usage._thread.join()
    assert page(database).trees[0].lookups == written
    usage.close()
    assert page(database).trees[0].lookups == 1


def test_outcomes_are_counted(database: Database, store: ObjectStore) -> None:
    publish(database, store)
    outcome = Outcome(
        layout=VLLM_AOT,
        hash=HASH,
        platform=PLATFORM.id,
        part="shared",
        generation=1,
        outcome="loaded",
        seconds=1.5,
        bytes=1 << 30,
    )
    for kind in ("loaded", "loaded", "load_failed"):
        with database.write() as db:
            count_outcome(db, replace(outcome, outcome=kind), NOW)
    assert page(database).trees[0].outcomes == {"loaded": 2, "load_failed": 1}
    with database.read() as db:
        row = select(OutcomeRow).where(OutcomeRow.outcome == "loaded")
        loaded = db.scalars(row).one()
    assert (loaded.pull_seconds, loaded.pulled_bytes) == (3.0, 2 << 30)
    for wrong in ({"seconds": math.nan}, {"seconds": -1.0}, {"bytes": -1}, {"bytes": 1 << 70}):
        with pytest.raises(UsageError), database.write() as db:
            count_outcome(db, replace(outcome, **wrong), NOW)
    for unknown in (replace(outcome, generation=2), replace(outcome, hash="b" * 64)):
        with pytest.raises(NotFoundError), database.write() as db:
            count_outcome(db, unknown, NOW)
    delete_trees(database, store, "default", HASH)
    with database.read() as db:
        assert db.scalar(text("SELECT count(*) FROM outcomes")) == 0


def test_a_manifest_on_a_base_is_read_with_it(database: Database, store: ObjectStore) -> None:
    publish_id = new_publish_id()
    publish(database, store, b"first", publish_id=publish_id)
    key, data = grown_part(publish_id)
    store.put(key, data)
    finish(database, store, key)
    assert [part.manifest for part in hit(database).parts] == [key]
    reindex(database, store)
    assert [part.manifest for part in hit(database).parts] == [key]


def test_what_a_manifest_is_written_against_has_to_stay(
    database: Database, store: ObjectStore
) -> None:
    publish_id = new_publish_id()
    first = publish(database, store, b"first", publish_id=publish_id)
    kept = store.get(first)
    delete_trees(database, store, "default", HASH)
    key, data = grown_part(publish_id)
    store.put(key, data)
    with pytest.raises(ObjectMissingError):
        finish(database, store, key)
    # Deleted, and storage has not noticed.
    store.put(first, kept)
    (pack,) = decode_manifest(kept).locations.packs
    with suppress(ObjectExistsError):
        store.put(pack_key("default", pack.name), b"first")
    with pytest.raises(ManifestError, match="generation 2 is written against 1, which is not comm"):
        finish(database, store, key)


class DeletedMeanwhile(KilledAt):
    """A store from which somebody deletes a manifest once the commit has read it."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        super().__init__(store, 10**9)
        self._key = key

    def size(self, key: str) -> int:
        if "/packs/" in key:
            self._store.delete(self._key)
        return super().size(key)


def test_a_manifest_that_is_deleted_during_its_commit(
    database: Database, store: ObjectStore
) -> None:
    publish(database, store)
    key = put_part(store, b"second", generation=2)
    session = begin(database, store)
    racing = DeletedMeanwhile(store, key)
    with pytest.raises(ObjectMissingError, match="was deleted before its commit"):
        commit(database, racing, session.publish_id, Commit(manifests=(key,)), now=NOW)
    # What was served before is, and the number is free.
    assert hit(database).parts[0].generation == 1
    publish(database, store, b"second", generation=2)
    assert hit(database).parts[0].generation == 2


def test_packs_of_another_namespace_are_not_there(database: Database, store: ObjectStore) -> None:
    publish(database, store, b"theirs", namespace="team")
    (pack,) = (found.key for found in store.list("team/packs/"))
    place = make_pack(b"theirs", pack.rpartition("-")[2])
    key = put_part(store, b"theirs", pack=place)
    with pytest.raises(CondemnedError, match="is missing"):
        finish(database, store, key)
    assert miss(database).reason == "unknown_hash"
