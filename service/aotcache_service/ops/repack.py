"""Mostly dead packs are rewritten: what is needed of one is put as a new pack, and the manifests
that refer to it are told where their bytes lie now.

Of a manifest only the locations are replaced, which nobody signs: what a node installs is checked
by the digests of the statement. The index refers to both packs until the manifest is replaced, so
that nothing is lost wherever this is killed; the old pack is then one that nothing refers to, and
is left for the time of grace, for those who read it by the manifest as it was.
"""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from msgspec import structs
from sqlalchemy.orm import Session

from aotcache.errors import FormatError, ObjectMissingError
from aotcache.protocol.manifest import (
    BlobPlace,
    Locations,
    Manifest,
    PackPlace,
    encode_manifest,
)
from aotcache.protocol.names import (
    PartName,
    TreeKey,
    manifest_key,
    new_publish_id,
    pack_key,
)
from aotcache.storage.base import DirectStore

from ..index import garbage, publishing, references
from ..index.database import Database
from ..index.models import PackRow
from .reading import read_manifest

log = logging.getLogger(__name__)

_DEAD = 0.5  # of a pack, from which on it is worth rewriting
SMALL = 1 << 20  # bytes; a smaller one is not
_TURN = 3600  # seconds that the new pack has until the index refers to it
_BATCH = 100  # packs looked at in one transaction


@dataclass(frozen=True, slots=True)
class _Old:
    id: int
    namespace: str
    name: str
    size: int
    loose: int


def repack(
    database: Database,
    store: DirectStore,
    *,
    now: int,
    small: int = SMALL,
    dry_run: bool = False,
    go_on: Callable[[], None] = lambda: None,
) -> tuple[int, int]:
    """Packs that were rewritten, and how many of their bytes nobody needed. small: bytes; smaller
    packs are left alone. go_on: called between steps; what it raises ends it. Raises
    StorageUnavailableError."""
    packs = freed = after = 0
    while True:
        with database.read() as db:
            rows = [_old(row) for row in garbage.loose(db, after, _BATCH)]
            live = {one.id: garbage.live_bytes(db, one.id) for one in rows if one.size >= small}
            # Somebody may be about to refer to it: the next time.
            pinned = {key for key in live if garbage.is_pinned(db, key, now)}
        if not rows:
            return packs, freed
        for one in rows:
            if one.id in live.keys() - pinned and _is_mostly_dead(one, live[one.id]):
                dead = one.size - live[one.id]
                dead = dead if dry_run else _rewrite(database, store, one, now, go_on)
                packs, freed = packs + bool(dead), freed + dead
                go_on()
        if not dry_run:
            with database.write() as db:
                for one in rows:
                    if one.id not in pinned:
                        garbage.looked_at(db, one.id, one.loose)
        after = rows[-1].id
        go_on()


def _is_mostly_dead(pack: _Old, live: int) -> bool:
    return live <= pack.size * (1 - _DEAD)


def _rewrite(
    database: Database, store: DirectStore, old: _Old, now: int, go_on: Callable[[], None]
) -> int:
    """Bytes that nobody needs of it, 0 where it stays as it is."""
    manifests = _manifests(database, store, old)
    if not manifests:
        return 0
    using = [manifest for manifest in manifests if _place_in(manifest, old.name) is not None]
    if len({_place_in(manifest, old.name) for manifest in using}) > 1:
        log.warning("pack %s is left as it is: manifests say differently what is in it", old.name)
        return 0
    frames = sorted(set().union(*(_needed(manifest.locations, old.name) for manifest in using)))
    new = None
    if frames:
        place = _place_in(using[0], old.name)
        assert place is not None
        # Prefixes are needed too, of which the index does not count the bytes.
        if not _is_mostly_dead(old, sum(place.frames[number].stored for number in frames)):
            return 0
        new = _put(database, store, using[0].statement.tree, old, place, frames, now)
        if new is None:
            return 0
        with database.write() as db:
            if not references.add_pack(db, old.namespace, new, old.id):
                return 0
    for manifest in manifests:
        if not _tell(database, store, manifest, old, new, frames):
            return 0
        go_on()
    kept = new.size if new is not None else 0
    log.info("pack %s is rewritten: %d of its %d bytes are needed", old.name, kept, old.size)
    return old.size - kept


def _manifests(database: Database, store: DirectStore, old: _Old) -> list[Manifest]:
    """Of all parts that refer to the pack, the last generation first; none where one cannot be
    read, which the next reconciliation tells of."""
    with database.read() as db:
        keys = garbage.manifests_with(db, old.id)
    try:
        found = [read_manifest(store, key) for key in keys]
    except (ObjectMissingError, FormatError) as error:
        log.info("pack %s is not rewritten: %s", old.name, error)
        return []
    return sorted(found, key=lambda manifest: -manifest.statement.generation)


def _put(
    database: Database,
    store: DirectStore,
    tree: TreeKey,
    old: _Old,
    place: PackPlace,
    frames: Sequence[int],
    now: int,
) -> PackPlace | None:
    """The new pack, in storage, and in a session that keeps it until the index refers to it."""
    try:
        data = memoryview(store.get(pack_key(old.namespace, old.name)))
    except ObjectMissingError:
        return None
    if hashlib.sha256(data).hexdigest() != old.name.partition("-")[0]:
        # Its copy would be none the wiser, and the one of which a backup may have the rest is gone.
        log.warning("pack %s is damaged in storage, and is left as it is", old.name)
        return None
    ends = [0, *accumulate(frame.stored for frame in place.frames)]
    kept = b"".join(data[ends[number] : ends[number + 1]] for number in frames)
    publish_id = new_publish_id()
    name = f"{hashlib.sha256(kept).hexdigest()}-{publish_id}"
    with database.write() as db:
        publishing.open_session(db, publish_id, tree, now, now + _TURN)
    store.put(pack_key(old.namespace, name), kept)
    return PackPlace(name=name, frames=tuple(place.frames[number] for number in frames))


def _tell(
    database: Database,
    store: DirectStore,
    manifest: Manifest,
    old: _Old,
    new: PackPlace | None,
    frames: Sequence[int],
) -> bool:
    """Replace the manifest, unless its part was deleted meanwhile: a deletion hides it first, in
    a transaction of its own. False where a pack went that it would refer to."""
    said = manifest.statement
    name = PartName(said.tree, said.part, said.generation)
    with database.write() as db:
        if not _is_kept(db, name):
            return True
        locations = manifest.locations
        if new is not None and _place_in(manifest, old.name) is not None:
            locations = moved(locations, old.name, new, frames)
            if not references.holds(db, said.namespace, {one.name for one in locations.packs}):
                return False
            replaced = encode_manifest(
                manifest.statement_bytes, locations, manifest.signatures, manifest.base
            )
            store.replace(manifest_key(name.tree, name.part, name.generation), replaced)
        references.refer(db, structs.replace(manifest, locations=locations))
    return True


def _is_kept(db: Session, name: PartName) -> bool:
    deleted = publishing.deleted_up_to(db, name.tree, name.part)
    return name.generation > deleted and publishing.is_committed(db, name)


def _place_in(manifest: Manifest, pack: str) -> PackPlace | None:
    return next((place for place in manifest.locations.packs if place.name == pack), None)


def _needed(locations: Locations, pack: str) -> set[int]:
    """Numbers of the frames of this pack that its blobs lie in."""
    found: set[int] = set()
    for number, place in enumerate(locations.packs):
        if place.name != pack:
            continue
        starts = [0, *accumulate(frame.raw for frame in place.frames)]
        for blob in locations.blobs:
            if blob.size and blob.pack == number:
                first = bisect_right(starts, blob.offset) - 1
                last = bisect_right(starts, blob.offset + blob.size - 1) - 1
                found.update(range(first, last + 1))
    return found


def moved(locations: Locations, pack: str, new: PackPlace, frames: Sequence[int]) -> Locations:
    """The same with `new` in place of the pack, which holds these of its frames, in this order."""
    number = next(i for i, place in enumerate(locations.packs) if place.name == pack)
    old = locations.packs[number]
    starts = [0, *accumulate(frame.raw for frame in old.frames)]
    begins = dict(zip(frames, accumulate((f.raw for f in new.frames), initial=0), strict=False))

    def place(blob: BlobPlace) -> BlobPlace:
        if not blob.size or blob.pack != number:
            return blob
        frame = bisect_right(starts, blob.offset) - 1
        return structs.replace(blob, offset=blob.offset - starts[frame] + begins[frame])

    packs = (*locations.packs[:number], new, *locations.packs[number + 1 :])
    return structs.replace(locations, packs=packs, blobs=tuple(map(place, locations.blobs)))


def _old(row: PackRow) -> _Old:
    return _Old(row.id, row.namespace, row.name, row.size, row.loose)
