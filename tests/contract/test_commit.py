"""What a commit takes and refuses, also with others at the same time, or killed."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import func, select

from aotcache.errors import (
    CondemnedError,
    GenerationTakenError,
    ManifestError,
    ObjectExistsError,
    ObjectMissingError,
    SessionExpiredError,
    UnavailableError,
    UsageError,
)
from aotcache.protocol.manifest import decode_manifest
from aotcache.protocol.names import (
    new_publish_id,
    pack_key,
)
from aotcache.protocol.v1.lookup import Miss
from aotcache.protocol.v1.publish import Commit, Session
from aotcache.storage import DirectStore, ObjectStore, open_store
from aotcache_service.index.database import Database
from aotcache_service.index.models import SessionPackRow, TreeRow
from aotcache_service.index.write import condemn_unknown_pack, hide_generations
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
    publish,
    queries,
    rebuild,
)
from support.killed import Killed, KilledAt
from support.stored import (
    HASH,
    RANK,
    RECIPE,
    grown_part,
    key_of,
    make_manifest,
    make_pack,
    manifest_bytes,
    put_part,
)


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
        assert condemn_unknown_pack(db, "default", going.name, NOW)
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


def test_a_session_of_many_parts_takes_no_more_questions(
    database: Database, store: ObjectStore
) -> None:
    """Others that write wait for it."""
    publish(database, store, part="rank_7_0-d0")
    publish(database, store, part="rank_8_0-d0")
    publish(database, store, part="rank_8_0-d0", generation=2)
    with database.write() as db:
        hide_generations(db, TREE, {"rank_8_0-d0": 2, "rank_9_0-d0": 5})
    parts = tuple(f"rank_{rank}_0-d0" for rank in range(500))
    with queries() as few:
        begin(database, store, parts=parts[:1])
    with queries() as many:
        session = begin(database, store, parts=parts)
    assert len(many) == len(few)
    after = {state.part: state.next_generation for state in session.parts}
    assert [after[part] for part in parts[6:11]] == [1, 2, 3, 6, 1]
    with pytest.raises(UsageError, match="at most 4096 parts"):
        begin(database, store, parts=tuple(f"rank_{rank}_0-d0" for rank in range(4097)))


def test_a_commit_of_too_much_is_refused(
    database: Database, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of manifests, and of files that they list: all of them are in memory at once."""
    keys = [put_part(store, part=f"rank_{rank}_0-d0") for rank in range(3)]
    with pytest.raises(UsageError, match="at most 1024 manifests"):
        Commit(manifests=tuple(keys[:1] * 1025))
    session = begin(database, store)
    # Each has a file, its place, and a pack of one frame.
    monkeypatch.setattr("aotcache_service.ops.publish._MOST", 8)
    body = Commit(manifests=tuple(keys))
    with pytest.raises(UsageError, match=r"lists at most 8 files, .*: commit part by part"):
        commit(database, store, session.publish_id, body, now=NOW)
    assert miss(database).reason == "unknown_hash"
    fewer = Commit(manifests=tuple(keys[:2]))
    commit(database, store, session.publish_id, fewer, now=NOW)
    assert len(hit(database).parts) == 2


def test_a_tree_has_so_many_parts_and_no_more(
    database: Database, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each lookup of it names them all."""
    monkeypatch.setattr("aotcache_service.ops.publish.MAX_PARTS", 2)
    for part in ("shared", RANK):
        publish(database, store, part=part)
    with pytest.raises(UsageError, match="2 parts"):
        publish(database, store, part="rank_1_0-d1")
    publish(database, store, part=RANK, generation=2)
    assert len(hit(database).parts) == 2


def test_large_commits_are_few_at_once(
    database: Database, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aotcache_service.ops.publish._LARGE", 7)
    monkeypatch.setattr("aotcache_service.ops.publish._large", threading.Semaphore(0))
    keys = [put_part(store, part=f"rank_{rank}_0-d0") for rank in range(5)]
    with pytest.raises(UnavailableError, match="try again"):
        finish(database, store, *keys[:2])
    finish(database, store, keys[0])
    monkeypatch.setattr("aotcache_service.ops.publish._large", threading.Semaphore(1))
    for _ in range(2):
        with pytest.raises(ObjectMissingError):
            finish(database, store, *keys[1:3], keys[4].replace(HASH, "b" * 64))
    finish(database, store, *keys[1:3])
    finish(database, store, *keys[3:])
    assert len(hit(database).parts) == 5


def test_what_many_publishers_say_of_a_tree_is_bounded(
    database: Database, store: ObjectStore
) -> None:
    for number in range(3):
        statement, locations = make_manifest(b"content", part=f"rank_{number}_0-d0")
        factors = {f"{number}.{each}": "" for each in range(400)}
        statement = msgspec.structs.replace(statement, hash_factors=factors)
        store.put(pack_key("default", locations.packs[0].name), b"content")
        store.put(key_of(statement), manifest_bytes(statement, locations))
        finish(database, store, key_of(statement))
        with database.read() as db:
            known = db.scalar(select(TreeRow.hash_factors))
        assert known is not None
        assert known.items() >= factors.items()
        assert len(known) == (400, 800, 400)[number]


def test_a_manifest_on_a_base_is_read_with_it(database: Database, store: ObjectStore) -> None:
    publish_id = new_publish_id()
    publish(database, store, b"first", publish_id=publish_id)
    key, data = grown_part(publish_id)
    store.put(key, data)
    finish(database, store, key)
    assert [part.manifest for part in hit(database).parts] == [key]
    rebuild(database, store)
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


class SlowCommit(KilledAt):
    """Between a commit's look at the packs and its end one of them goes, and nobody knows of it any
    more: its session had been over for as long as the time of grace."""

    def __init__(self, store: DirectStore, pack: str) -> None:
        super().__init__(store, 1 << 30)
        self._pack = pack

    def size(self, key: str) -> int:
        found = super().size(key)
        if key == self._pack:
            self._store.delete(key)
        return found


def test_what_goes_while_it_is_committed_is_not_served(
    database: Database, store: DirectStore
) -> None:
    pack = make_pack(b"gone", new_publish_id())
    place = pack_key("default", pack.name)
    store.put(place, b"gone")
    keys = (put_part(store, part=RANK), put_part(store, b"gone", pack=pack))
    with pytest.raises(ObjectMissingError, match=pack.name):
        finish(database, SlowCommit(store, place), *keys)
    assert [part.part for part in hit(database).parts] == [RANK]
