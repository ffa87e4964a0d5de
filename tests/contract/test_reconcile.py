"""Reconciling: index and storage become the same, whichever of them lost something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from aotcache.errors import StorageUnavailableError
from aotcache.protocol.manifest import encode_manifest, encode_statement
from aotcache.protocol.names import (
    VLLM_AOT,
    deleted_key,
    new_publish_id,
    pack_key,
    pinned_key,
    quarantined_prefix,
    revoked_key,
)
from aotcache.protocol.sections import Base
from aotcache.protocol.v1.collect import Reconciled
from aotcache.protocol.v1.keys import RevokeKey
from aotcache.protocol.v1.outcomes import Outcome
from aotcache.storage import DirectStore, open_store
from aotcache_service.index.database import Database
from aotcache_service.index.listing import Filter
from aotcache_service.ops import additions, quarantine
from aotcache_service.ops.delete import delete_trees
from aotcache_service.ops.listing import list_storage
from aotcache_service.ops.pin import pin
from aotcache_service.ops.reconcile import reconcile
from aotcache_service.ops.revoke import revoke_key
from support.indexed import NOW, TREE, finish, hit, miss, publish, rebuild
from support.stored import HASH, PLATFORM, RANK, key_of, make_manifest, make_pack, put_part

OTHER = "b" * 64
KEY = "1" * 32


def keys(store: DirectStore) -> set[str]:
    return {found.key for found in store.list("")}


def only_said(database: Database, store: DirectStore) -> Reconciled:
    """Of a dry run, which does nothing."""
    before = keys(store)
    said = reconcile(database, store, list_storage(store), dry_run=True)
    assert keys(store) == before
    return said


def test_a_lost_pack_is_not_served_until_it_is_back(database: Database, store: DirectStore) -> None:
    pack = make_pack(b"12345678", new_publish_id())
    place = pack_key("default", pack.name)
    store.put(place, b"12345678")
    lost = publish(database, store, b"12345678", pack=pack)
    publish(database, store, b"model", part=RANK)
    for left in (None, b"1234"):
        store.delete(place)
        if left is not None:
            store.put(place, left)
        assert only_said(database, store).withdrawn == (lost,)
        assert len(hit(database).parts) == 2
        assert rebuild(database, store).withdrawn == (lost,)
        assert [part.part for part in hit(database).parts] == [RANK]
        # It stays where it is, and is told of each time.
        done = rebuild(database, store)
        assert (done.withdrawn, done.skipped) == ((), (lost,))
        store.delete(place)
        store.put(place, b"12345678")
        assert rebuild(database, store).added == 1
        assert len(hit(database).parts) == 2


def test_an_earlier_generation_that_lost_nothing_is_served(
    database: Database, store: DirectStore
) -> None:
    publish(database, store, b"first")
    pack = make_pack(b"second", new_publish_id())
    store.put(pack_key("default", pack.name), b"second")
    publish(database, store, b"second", pack=pack, generation=2)
    store.delete(pack_key("default", pack.name))
    rebuild(database, store)
    assert hit(database).parts[0].generation == 1


def test_a_manifest_that_lacks_a_pack_makes_room_for_a_publish(
    database: Database, store: DirectStore
) -> None:
    """As a publisher does it: of a part that is not committed the manifest may be deleted."""
    pack = make_pack(b"lost", new_publish_id())
    store.put(pack_key("default", pack.name), b"lost")
    lost = publish(database, store, b"lost", pack=pack)
    store.delete(pack_key("default", pack.name))
    rebuild(database, store)
    store.delete(lost)
    assert publish(database, store, b"again") == lost
    assert hit(database).parts[0].generation == 1
    assert rebuild(database, store).skipped == ()


def test_what_came_and_what_went(database: Database, store: DirectStore) -> None:
    gone = publish(database, store, b"going")
    new = put_part(store, b"new", tree_hash=OTHER)
    store.delete(gone)
    said = only_said(database, store)
    done = rebuild(database, store)
    assert (said.added, said.withdrawn) == (done.added, done.withdrawn) == (1, (gone,))
    assert miss(database).reason == "unknown_hash"
    assert hit(database, hash=OTHER).parts[0].manifest == new
    assert replace(rebuild(database, store), added=0) == replace(
        only_said(database, store), dry_run=False
    )


def test_marks_that_were_lost_are_put_again(
    database: Database, store: DirectStore, new_database: Callable[[], Database]
) -> None:
    publish(database, store, b"kept")
    publish(database, store, b"model", part=RANK)
    publish(database, store, b"gone", tree_hash=OTHER)
    wanted = Filter(namespaces=frozenset(("default",)), hash=HASH)
    pin(database, store, wanted)
    delete_trees(database, store, "default", OTHER)
    revoke_key(database, store, RevokeKey(key=KEY))
    crash = Outcome(
        layout=VLLM_AOT,
        hash=HASH,
        platform=PLATFORM.id,
        part=RANK,
        generation=1,
        outcome="crashed",
        node="n1",
        reason="SIGSEGV",
    )
    quarantine.tell(database, store, crash, token="", nodes=1, now=NOW)
    marks = {key for key in keys(store) if "/marks/" in key}
    (quarantined,) = (found.key for found in store.list(quarantined_prefix(TREE, RANK)))
    assert marks == {
        pinned_key(TREE),
        quarantined,
        revoked_key("default", KEY),
        deleted_key(msgspec.structs.replace(TREE, hash=OTHER), "shared", 1),
    }
    said = store.get(quarantined)
    for mark in marks:
        store.delete(mark)
    assert only_said(database, store).marked == 4
    assert rebuild(database, store).marked == 4
    assert {key for key in keys(store) if "/marks/" in key} == marks
    assert store.get(quarantined) == said
    assert rebuild(database, store).marked == 0
    # And so a lost database learns of all of them.
    other = new_database()
    rebuild(other, store)
    assert rebuild(other, store).marked == 0
    assert miss(other, parts=(RANK,)).reason == "quarantined"


def test_storage_that_is_not_the_right_one_changes_nothing(
    database: Database, store: DirectStore, tmp_path: Path
) -> None:
    publish(database, store)
    other = open_store((tmp_path / "elsewhere").as_uri())
    for dry_run in (True, False):
        with pytest.raises(
            StorageUnavailableError, match="holds nothing that the index knows, of 1 manifests"
        ):
            reconcile(database, other, list_storage(other), dry_run=dry_run)
    assert hit(database)
    other.close()


def test_a_namespace_that_lost_all_changes_nothing(database: Database, store: DirectStore) -> None:
    """Nor packs alone, as where only they lie elsewhere."""
    publish(database, store, namespace="kept")
    lost = []
    for number in range(11):
        data = b"%d" % number
        pack = make_pack(data, new_publish_id())
        lost.append(pack_key("default", pack.name))
        store.put(lost[-1], data)
        publish(database, store, data, pack=pack, tree_hash=f"{number:064x}")
    for key in lost[1:]:
        store.delete(key)
    assert len(only_said(database, store).withdrawn) == 10
    store.delete(lost[0])
    with pytest.raises(StorageUnavailableError, match=r"of namespace default .* of 11 manifests"):
        rebuild(database, store)
    assert hit(database, hash=f"{0:064x}")


def test_few_manifests_are_in_memory_together(
    database: Database, store: DirectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        put_part(store, tree_hash=f"{number:064x}", created=number)
    sizes: list[int] = []
    stored_packs = additions._stored_packs
    write = database.write

    def counting(*about: object) -> dict[str, int]:
        sizes[-1] += 1
        return stored_packs(*about)  # type: ignore[arg-type]

    def writing() -> object:
        sizes.append(0)
        return write()

    monkeypatch.setattr(additions, "_stored_packs", counting)
    monkeypatch.setattr(database, "write", writing)
    # Each weighs 4: a file, its place, and a pack of one frame.
    for bound, batches in ((12, [3, 3, 1]), (3, [1] * 7)):
        monkeypatch.setattr(additions, "_BATCH_WEIGHT", bound)
        sizes[:] = [0]
        assert rebuild(database, store).added == 7
        assert [size for size in sizes if size] == batches
        for number in range(7):
            delete_trees(database, store, "default", f"{number:064x}")
            put_part(store, tree_hash=f"{number:064x}", generation=2, created=number)


def test_a_generation_goes_with_what_it_was_written_against(
    database: Database, store: DirectStore
) -> None:
    pack = make_pack(b"x", new_publish_id())
    store.put(pack_key("default", pack.name), b"x")
    first, locations = make_manifest(b"x", pack=pack)
    store.put(key_of(first), encode_manifest(encode_statement(first), locations, ()))
    base = Base(1, encode_statement(first))
    second = msgspec.structs.replace(first, generation=2)
    store.put(key_of(second), encode_manifest(encode_statement(second, base), locations, (), base))
    finish(database, store, key_of(first), key_of(second))
    store.delete(key_of(first))
    assert rebuild(database, store).withdrawn == (key_of(first), key_of(second))
    assert miss(database).reason == "unknown_hash"
