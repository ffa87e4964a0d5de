"""Reconcile the index with object storage, which is the truth: into an empty database, or over an
existing one.

A manifest that the index knows is not read again: what is signed of it cannot have changed. The
service may go on working meanwhile.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from aotcache.errors import (
    FormatError,
    ObjectExistsError,
    ObjectMissingError,
    StorageUnavailableError,
)
from aotcache.protocol.names import TreeKey, deleted_key, pack_key, parse_manifest_key
from aotcache.protocol.v1.collect import MAX_NAMED, Reconciled
from aotcache.storage.base import ObjectStore

from ..index import garbage, publishing, withheld, write
from ..index.database import Database
from ..index.models import PartRow, TreeRow
from ..index.rows import tree_key
from .additions import READERS, add, in_batches
from .listing import Listing
from .marks import marks_of
from .quarantine import read_mark
from .reading import read_manifest, stored_size

log = logging.getLogger(__name__)

_WINDOW = 10_000  # rows of packs that are compared at a time
_HARDLY = 10  # manifests of a namespace that hardly go all at once

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
    publish of its part takes its place. Raises StorageUnavailableError, also where storage lost
    all that the index knows of a namespace: it is hardly the right one.
    """
    cut_off = _spare_pinned(database, listing)
    known, new, gone = _compared(database, listing)
    if known and not listing.manifests and not listing.deleted:
        raise _emptied(store, known.total())
    vanished = _vanished(store, gone)
    go_on()
    lost = _lost(database, store, listing, go_on) | _baseless(database, store, vanished)
    _refuse_emptied(store, known, lost.keys() | set(vanished))
    with database.read() as db:
        unmarked = {key: mark for key, mark in marks_of(db) if key not in listing.marks}
    skipped: list[str] = []
    if not dry_run:
        for mark in cut_off:
            store.delete(mark)
        _hide_deleted(database, listing)
        _withhold(database, store, listing)
        for manifest in (*vanished, *lost):
            log.warning("%s: %s", manifest, lost.get(manifest, "is not in storage any more"))
            with database.write() as db:
                write.withdraw(db, manifest)
            go_on()
        skipped = add(database, store, listing, new, go_on)
        for keys in in_batches(listing.pinned):
            with database.write() as db:
                for tree in keys:
                    write.pin(db, tree)
        _mark(store, unmarked)
        _remove_dead(database, store, listing.dead)
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


def _compared(database: Database, listing: Listing) -> tuple[Counter[str], list[str], list[str]]:
    """How many manifests of each namespace the index knows; those in storage that it does not, and
    those that it knows and are not listed."""
    known, gone, new = Counter[str](), list[str](), set(listing.manifests)
    with database.read() as db:
        for key in _known(db):
            known[key.partition("/")[0]] += 1
            if key in new:
                new.remove(key)
            else:
                gone.append(key)
    return known, sorted(new), gone


def _known(db: Session) -> Iterator[str]:
    """Manifests of the index: some at a time, as there may be millions."""
    return iter(db.scalars(select(PartRow.manifest).execution_options(yield_per=_WINDOW)))


def _vanished(store: ObjectStore, gone: list[str]) -> list[str]:
    """Manifests of the index that are not in storage any more. A commit may have come after the
    listing."""
    with ThreadPoolExecutor(READERS) as pool:
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
            if listing.packs[row.namespace].get(row.name) == row.size:
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


def _baseless(database: Database, store: ObjectStore, vanished: list[str]) -> dict[str, str]:
    """Later generations of what vanished that were written against it, each with why."""
    first: dict[tuple[TreeKey, str], int] = {}
    for name in map(parse_manifest_key, vanished):
        place = (name.tree, name.part)
        first[place] = min(name.generation, first.get(place, name.generation))
    if not first:
        return {}
    later = []
    with database.read() as db:
        for key in _known(db):
            name = parse_manifest_key(key)
            if name.generation > first.get((name.tree, name.part), name.generation):
                later.append(key)
    missing = set(vanished)
    found: dict[str, str] = {}
    for key in later:
        if key in missing:
            continue
        try:
            read_manifest(store, key)
        except (ObjectMissingError, FormatError) as error:
            found[key] = f"it cannot be read: {error}"
    return found


def _refuse_emptied(store: ObjectStore, known: Mapping[str, int], gone: Set[str]) -> None:
    for namespace, count in Counter(key.partition("/")[0] for key in gone).items():
        if count > _HARDLY and count == known[namespace]:
            raise _emptied(store, count, f" of namespace {namespace}")


def _emptied(store: ObjectStore, count: int, where: str = "") -> StorageUnavailableError:
    return StorageUnavailableError(
        f"{store.url} holds nothing{where} that the index knows, of {count} manifests: "
        "nothing was done. Is it the right place? If it was emptied, delete the index's database"
    )


def _spare_pinned(database: Database, listing: Listing) -> list[str]:
    """Deletions that were cut off before they hid their tree, which was pinned since: they are not
    gone on with. Returns their marks."""
    marks = []
    with database.read() as db:
        rows = db.scalars(select(TreeRow).where(TreeRow.pinned))
        pinned = {tree_key(row) for row in rows}.union(listing.pinned)
        places = [place for place in listing.deleted if place[0] in pinned]
        hidden = {place: publishing.deleted_up_to(db, *place) for place in places}
    for key in list(listing.dead):
        name = parse_manifest_key(key)
        place = (name.tree, name.part)
        if place in hidden and name.generation > hidden[place]:
            listing.dead.remove(key)
            listing.manifests.add(key)
            if generation := listing.deleted.pop(place, 0):
                marks.append(deleted_key(*place, generation))
    listing.marks.difference_update(marks)
    return marks


def _hide_deleted(database: Database, listing: Listing) -> None:
    for batch in in_batches(listing.deleted.items()):
        with database.write() as db:
            for (tree, part), generation in batch:
                row = publishing.find_tree(db, tree)
                if row is not None and row.pinned:
                    served = publishing.newest_parts(db, tree).get(part)
                    if served is not None and served.generation <= generation:
                        continue  # pinned since the listing
                write.hide_generations(db, tree, {part: generation})
                write.remove_generations(db, tree, {part: generation})


def _remove_dead(database: Database, store: ObjectStore, dead: Iterable[str]) -> None:
    """Manifests of what the index, too, takes for deleted."""
    for key in dead:
        name = parse_manifest_key(key)
        with database.read() as db:
            deleted = publishing.deleted_up_to(db, name.tree, name.part)
        if name.generation <= deleted:
            store.delete(key)


def _withhold(database: Database, store: ObjectStore, listing: Listing) -> None:
    """Before anything is added: what is withheld is never served in between."""
    for namespace, key in listing.revoked:
        with database.write() as db:
            withheld.revoke(db, namespace, key)
    for mark, name in listing.quarantined.items():
        try:
            said = read_mark(store, mark)
        except ObjectMissingError:
            continue  # released since the listing
        with database.write() as db:
            withheld.quarantine(
                db,
                name.tree,
                name.part,
                name.generation,
                said.reason,
                said.since,
                said.content,
                said.first,
            )


def _mark(store: ObjectStore, marks: Mapping[str, bytes]) -> None:
    for key, data in marks.items():
        # Not in a transaction with its row: an unpin that comes in between is undone at worst.
        try:
            store.put(key, data)
        except ObjectExistsError:
            continue  # put since the listing
        log.warning("%s was lost, and is put again", key)
