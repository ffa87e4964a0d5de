"""Rewriting mostly dead packs: what is needed of them lies elsewhere, and nothing else changes."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotcache.protocol.manifest import (
    BlobPlace,
    Frame,
    Locations,
    PackPlace,
    decode_manifest,
    encode_manifest,
    encode_statement,
)
from aotcache.protocol.names import new_publish_id, pack_key, sibling_key
from aotcache.protocol.sections import Base
from aotcache.storage import DirectStore, open_store
from aotcache_service.index.database import Database
from aotcache_service.index.write import condemn_unknown_pack
from aotcache_service.ops.delete import delete_trees
from aotcache_service.ops.repack import moved, repack
from support.indexed import NOW, begin, finish, hit, page, publish, rebuild
from support.killed import Killed, KilledAt
from support.stored import HASH, RANK, key_of, make_manifest, make_pack

KEPT, LATER = "b" * 64, NOW + 10 * 24 * 3600
CONTENT = b"".join(b"%08d" % number for number in range(8))


def mostly_dead(
    database: Database, store: DirectStore, *, gone: str = HASH, kept: str = KEPT
) -> tuple[str, str]:
    """A manifest that needs frames 2 and 3 of 8 of a pack, and the pack's key."""
    pack = make_pack(CONTENT, new_publish_id(), frames=8)
    place = pack_key("default", pack.name)
    store.put(place, CONTENT)
    publish(database, store, CONTENT, pack=pack, tree_hash=gone)
    manifest = publish(database, store, CONTENT[16:32], pack=pack, at=16, tree_hash=kept)
    delete_trees(database, store, "default", gone)
    return manifest, place


def bytes_of(store: DirectStore, manifest: str) -> bytes:
    """Of its one file, checked."""
    found = decode_manifest(store.get(manifest), lambda g: store.get(sibling_key(manifest, g)))
    blob = found.locations.blobs[0]
    place = pack_key("default", found.locations.packs[blob.pack].name)
    data = store.get_range(place, blob.offset, blob.offset + blob.size)
    assert hashlib.sha256(data).hexdigest() == found.statement.files[0].digest
    return data


def test_what_is_needed_lies_in_a_new_pack(database: Database, store: DirectStore) -> None:
    kept, old = mostly_dead(database, store)
    before, listed, found = (
        decode_manifest(store.get(kept)),
        page(database),
        hit(database, hash=KEPT),
    )
    assert repack(database, store, now=LATER, small=0, dry_run=True) == (1, 48)
    assert decode_manifest(store.get(kept)) == before
    assert repack(database, store, now=LATER, small=0) == (1, 48)
    after = decode_manifest(store.get(kept))
    assert after.statement_bytes == before.statement_bytes
    (place,) = after.locations.packs
    assert (place.size, pack_key("default", place.name) != old) == (16, True)
    assert bytes_of(store, kept) == CONTENT[16:32]
    assert store.get(old) == CONTENT  # for who reads by the manifest as it was
    assert (page(database), hit(database, hash=KEPT)) == (listed, found)
    assert repack(database, store, now=LATER, small=0) == (0, 0)


def test_small_packs_and_those_that_are_mostly_needed_stay(
    database: Database, store: DirectStore
) -> None:
    mostly_dead(database, store)
    assert repack(database, store, now=LATER, small=len(CONTENT) + 1) == (0, 0)
    pack = make_pack(b"needed", new_publish_id(), frames=2)
    store.put(pack_key("default", pack.name), b"needed")
    publish(database, store, b"needed", pack=pack, tree_hash="c" * 64)
    assert repack(database, store, now=LATER, small=0) == (0, 0), "it was looked at before"


def test_a_pack_that_a_session_pins_waits(database: Database, store: DirectStore) -> None:
    mostly_dead(database, store)
    begin(database, store, hash=KEPT, now=LATER)
    assert repack(database, store, now=LATER, small=0) == (0, 0)
    assert repack(database, store, now=LATER + 2 * 3600, small=0) == (1, 48)


def test_a_damaged_pack_is_left(database: Database, store: DirectStore) -> None:
    kept, old = mostly_dead(database, store)
    store.replace(old, CONTENT[::-1])
    assert repack(database, store, now=LATER, small=0) == (0, 0)
    assert pack_key("default", decode_manifest(store.get(kept)).locations.packs[0].name) == old


def test_all_that_refer_to_it_are_told(database: Database, store: DirectStore) -> None:
    """Other trees, and a generation that is written against another one."""
    pack = make_pack(CONTENT, new_publish_id(), frames=8)
    store.put(pack_key("default", pack.name), CONTENT)
    publish(database, store, CONTENT, pack=pack)
    about = {"tree_hash": KEPT, "pack": pack}
    first, locations = make_manifest(CONTENT[:8], **about)  # type: ignore[arg-type]
    store.put(key_of(first), encode_manifest(encode_statement(first), locations, ()))
    base = Base(1, encode_statement(first))
    second = msgspec.structs.replace(first, generation=2)
    store.put(key_of(second), encode_manifest(encode_statement(second, base), locations, (), base))
    finish(database, store, key_of(first), key_of(second))
    other = publish(database, store, CONTENT[56:], at=56, part=RANK, **about)
    delete_trees(database, store, "default", HASH)
    assert repack(database, store, now=LATER, small=0) == (1, 48)
    manifests = (key_of(first), key_of(second), other)
    assert [bytes_of(store, key) for key in manifests] == [CONTENT[:8], CONTENT[:8], CONTENT[56:]]
    assert rebuild(database, store).skipped == ()


def test_killed_at_any_step_nothing_is_lost(database: Database, tmp_path: Path) -> None:
    for steps in itertools.count():
        store = open_store((tmp_path / f"store-{steps}").as_uri())
        tree = f"{steps:064x}"
        kept, _ = mostly_dead(database, store, gone=f"{steps + 1000:064x}", kept=tree)
        try:
            repack(database, KilledAt(store, steps), now=LATER, small=0)
        except Killed:
            assert bytes_of(store, kept) == CONTENT[16:32]
            repack(database, store, now=LATER, small=0)
        else:
            assert steps >= 4
            break
        assert bytes_of(store, kept) == CONTENT[16:32]
        delete_trees(database, store, "default", tree)


@given(data=st.data())
def test_every_blob_is_found_where_it_was_moved_to(data: st.DataObject) -> None:
    """Whatever the frames are, and whichever of them are kept beside the needed ones."""
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    raw = bytes(itertools.islice(itertools.cycle(range(251)), sum(sizes)))
    starts = [0, *itertools.accumulate(sizes)]
    blobs, needed = [], set()
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(raw) - 1))
        end = data.draw(st.integers(begin + 1, len(raw)))
        blobs.append((begin, end))
        needed |= {i for i in range(len(sizes)) if starts[i] < end and begin < starts[i + 1]}
    kept = sorted(needed | data.draw(st.sets(st.integers(0, len(sizes) - 1))))
    other = PackPlace(name="other", frames=(Frame(100, 100),))
    old = PackPlace(name="old", frames=tuple(Frame(size, size) for size in sizes))
    new = PackPlace(name="new", frames=tuple(old.frames[i] for i in kept))
    rest = b"".join(raw[starts[i] : starts[i + 1]] for i in kept)
    places = [BlobPlace(1, begin, end - begin) for begin, end in blobs]
    places += [BlobPlace(0, 7, 3), BlobPlace(0, 0, 0)]
    found = moved(Locations(packs=(other, old), blobs=tuple(places)), "old", new, kept)
    assert [place.name for place in found.packs] == ["other", "new"]
    assert found.blobs[-2:] == tuple(places[-2:])
    for (begin, end), place in zip(blobs, found.blobs, strict=False):
        assert rest[place.offset : place.offset + place.size] == raw[begin:end]


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_manifest_that_cannot_be_read_keeps_its_pack(
    database: Database, store: DirectStore, damage: str
) -> None:
    kept, _ = mostly_dead(database, store)
    if damage == "missing":
        store.delete(kept)
    else:
        store.replace(kept, b"{}\n")
    assert repack(database, store, now=LATER, small=0) == (0, 0)


def test_a_pack_that_manifests_cut_differently_stays(
    database: Database, store: DirectStore
) -> None:
    kept, old = mostly_dead(database, store)
    found = decode_manifest(store.get(kept))
    (place,) = found.locations.packs
    other = msgspec.structs.replace(place, frames=(Frame(32, 32), Frame(32, 32)))
    publish(database, store, CONTENT[32:40], pack=other, at=32, tree_hash="d" * 64)
    assert repack(database, store, now=LATER, small=0) == (0, 0)
    assert decode_manifest(store.get(kept)) == found
    assert store.get(old) == CONTENT


class CondemnedMeanwhile(KilledAt):
    """Another collection takes the new pack for one that nobody needs: putting it took long."""

    def __init__(self, store: DirectStore, database: Database) -> None:
        super().__init__(store, 1 << 30)
        self._database = database

    def put(self, key: str, data: bytes | memoryview) -> None:
        super().put(key, data)
        with self._database.write() as db:
            condemn_unknown_pack(db, "default", key.rpartition("/")[2], LATER)


def test_a_new_pack_that_is_going_is_not_referred_to(
    database: Database, store: DirectStore
) -> None:
    kept, _ = mostly_dead(database, store)
    found = decode_manifest(store.get(kept))
    slow = CondemnedMeanwhile(store, database)
    assert repack(database, slow, now=LATER, small=0) == (0, 0)
    assert decode_manifest(store.get(kept)) == found
    assert bytes_of(store, kept) == CONTENT[16:32]
