"""Reconcile the index with object storage, which is the truth: into an empty database, or over an
existing one.

A manifest that the index knows is not read again: what is signed of it cannot have changed. The
service may go on working meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from aotcache.errors import (
    CondemnedError,
    FormatError,
    ObjectExistsError,
    ObjectMissingError,
    StorageUnavailableError,
)
from aotcache.protocol.manifest import Manifest
from aotcache.protocol.names import PartName, pack_key
from aotcache.protocol.v1.collect import MAX_NAMED, Reconciled
from aotcache.storage.base import ObjectStore

from ..index import garbage, publishing, withheld, write
from ..index.database import Database
from ..index.models import PartRow, TreeRow
from .listing import Listing
from .marks import marks_of
from .quarantine import read_mark
from .reading import read_manifest, stored_size

log = logging.getLogger(__name__)

_BATCH = 200  # manifests of one transaction: others can write in between
_READERS = 16
_WINDOW = 10_000  # rows of packs that are compared at a time

T = TypeVar("T")


def reconcile(
    database: Database,
    store: ObjectStore,
    listing: Listing,
    *,
    dry_run: bool = False,
    go_on: Callable[[], None] = lambda: None,
) -> Reconciled:
    """Idempotent. listing: of this store. go_on: called between steps; what it raises ends it.

    From storage: marks, manifests that came, manifests and packs that went. To storage: marks that
    were lost come back, what a deletion that was cut off has left goes. A manifest
    that cannot be read, or whose packs are not there, stays where it is, as these may come back; a
    publish of its part takes its place. Raises StorageUnavailableError, also where storage holds
    nothing of what the index knows: it is hardly the right one.
    """
    with database.read() as db:
        known = set(db.scalars(select(PartRow.manifest)))
    if known and not listing.manifests and not listing.deleted:
        raise StorageUnavailableError(
            f"{store.url} holds no manifest, and the index knows {len(known)}: nothing was done. "
            "Is it the right place? If it was emptied, delete the index's database"
        )
    vanished = _vanished(store, listing, known)
    new = [key for key in listing.manifests if key not in known]
    go_on()
    lost = _lost(database, store, listing, go_on)
    with database.read() as db:
        unmarked = {key: mark for key, mark in marks_of(db) if key not in listing.marks}
    skipped: list[str] = []
    if not dry_run:
        _hide_deleted(database, listing)
        _withhold(database, store, listing)
        for manifest in (*vanished, *lost):
            log.warning("%s: %s", manifest, lost.get(manifest, "is not in storage any more"))
            with database.write() as db:
                write.withdraw(db, manifest)
            go_on()
        skipped = _add(database, store, listing, new, go_on)
        for keys in _batches(listing.pinned):
            with database.write() as db:
                for tree in keys:
                    write.pin(db, tree)
        _mark(store, unmarked)
        for manifest in listing.dead:
            store.delete(manifest)
    with database.read() as db:
        trees = db.scalar(select(func.count()).where(TreeRow.hidden.is_(False))) or 0
        parts = db.scalar(select(func.count()).where(PartRow.newest)) or 0
    return Reconciled(
        dry_run=dry_run,
        trees=trees,
        parts=parts,
        added=len(new) - len(skipped),
        skipped=tuple(skipped[:MAX_NAMED]),
        withdrawn=tuple(sorted((*vanished, *lost))[:MAX_NAMED]),
        removed=len(listing.dead),
        marked=len(unmarked),
    )


def _vanished(store: ObjectStore, listing: Listing, known: set[str]) -> list[str]:
    """Manifests of the index that are not in storage any more. A commit may have come after the
    listing."""
    gone = [key for key in known if key not in listing.manifests]
    with ThreadPoolExecutor(_READERS) as pool:
        sizes = pool.map(partial(stored_size, store), gone)
        return [key for key, size in zip(gone, sizes, strict=True) if size is None]


def _lost(
    database: Database, store: ObjectStore, listing: Listing, go_on: Callable[[], None]
) -> dict[str, str]:
    """Manifests of the index that refer to a pack which is not there as it was, each with why."""
    found: dict[str, str] = {}
    with database.read() as db:
        last = garbage.last_pack(db)
    for first in range(1, last + 1, _WINDOW):
        with database.read() as db:
            rows = garbage.referred(db, first, first + _WINDOW)
        for row in rows:
            if listing.packs.get((row.namespace, row.name)) == row.size:
                continue
            size = stored_size(store, pack_key(row.namespace, row.name))
            if size == row.size:
                continue
            why = "is not there any more" if size is None else f"has {size} bytes, not {row.size}"
            with database.read() as db:
                for manifest in garbage.manifests_with(db, row.id):
                    found[manifest] = f"its pack {row.name} {why}"
        go_on()
    return found


def _hide_deleted(database: Database, listing: Listing) -> None:
    for batch in _batches(listing.deleted.items()):
        with database.write() as db:
            for (tree, part), generation in batch:
                write.hide_generations(db, tree, {part: generation})
                write.remove_generations(db, tree, {part: generation})


def _withhold(database: Database, store: ObjectStore, listing: Listing) -> None:
    """Before anything is added: what is withheld is never served in between."""
    for namespace, key in listing.revoked:
        with database.write() as db:
            withheld.revoke(db, namespace, key)
    for mark, name in listing.quarantined.items():
        try:
            reason, since, content = read_mark(store, mark)
        except ObjectMissingError:
            continue  # released since the listing
        with database.write() as db:
            withheld.quarantine(db, name.tree, name.part, name.generation, reason, since, content)


def _mark(store: ObjectStore, marks: Mapping[str, bytes]) -> None:
    for key, data in marks.items():
        # Not in a transaction with its row: an unpin that comes in between is undone at worst.
        try:
            store.put(key, data)
        except ObjectExistsError:
            continue  # put since the listing
        log.warning("%s was lost, and is put again", key)


def _add(
    database: Database,
    store: ObjectStore,
    listing: Listing,
    new: list[str],
    go_on: Callable[[], None],
) -> list[str]:
    """Add these manifests, oldest first. Returns those that cannot be."""
    read = partial(_read, store)
    order: list[tuple[int, int, str]] = []
    skipped: list[str] = []
    with ThreadPoolExecutor(_READERS) as pool:
        # Each is read twice, once for its time: all at once would not fit into memory.
        for batch in _batches(new):
            for key, manifest in zip(batch, pool.map(read, batch), strict=True):
                if manifest is None:
                    skipped.append(key)
                else:
                    order.append((manifest.statement.created, manifest.statement.generation, key))
            go_on()
        order.sort()
        for batch in _batches([key for _, _, key in order]):
            manifests = list(pool.map(read, batch))
            stored = [{} if m is None else _stored_packs(store, listing, m) for m in manifests]
            with database.write() as db:
                for key, manifest, sizes in zip(batch, manifests, stored, strict=True):
                    if manifest is None or not _add_one(db, manifest, sizes):
                        skipped.append(key)
            go_on()
    return skipped


def _add_one(db: Session, manifest: Manifest, stored: dict[str, int]) -> bool:
    statement = manifest.statement
    name = PartName(statement.tree, statement.part, statement.generation)
    deleted = publishing.deleted_up_to(db, name.tree, name.part)
    if name.generation <= deleted or publishing.is_committed(db, name):
        return True  # somebody deleted or committed it since the listing
    try:
        with db.begin_nested():
            write.add_part(db, manifest, stored)
    except (CondemnedError, DataError) as error:
        log.warning("%s %s is skipped: %s", name.tree, name.part, error)
        return False
    return True


def _read(store: ObjectStore, key: str) -> Manifest | None:
    try:
        return read_manifest(store, key)
    except (FormatError, ObjectMissingError) as error:
        log.warning("%s is skipped: %s", key, error)
        return None


def _stored_packs(store: ObjectStore, listing: Listing, manifest: Manifest) -> dict[str, int]:
    namespace = manifest.statement.namespace
    sizes = {}
    for place in manifest.locations.packs:
        size = listing.packs.get((namespace, place.name))
        if size is None:
            # Packs are listed before manifests: this one may have come in between.
            size = stored_size(store, pack_key(namespace, place.name))
        if size is not None:
            sizes[place.name] = size
    return sizes


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch
