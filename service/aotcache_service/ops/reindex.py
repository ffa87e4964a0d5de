"""Rebuild the index from object storage alone, into an empty database or over an existing one.

A manifest that the index knows is not read again: it cannot have changed. The service may go on
working meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from aotcache.errors import (
    CondemnedError,
    FormatError,
    InvalidNameError,
    ObjectMissingError,
)
from aotcache.protocol.manifest import Manifest
from aotcache.protocol.names import (
    PartName,
    TreeKey,
    pack_key,
    parse_deleted_key,
    parse_manifest_key,
    parse_quarantined_key,
    parse_revoked_key,
)
from aotcache.storage.base import ObjectStore

from ..index import publishing, withheld, write
from ..index.database import Database
from ..index.models import PartRow, TreeRow
from .quarantine import read_mark
from .reading import read_manifest, stored_size

log = logging.getLogger(__name__)

_BATCH = 200  # manifests of one transaction: others can write in between
_READERS = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexSummary:
    """trees, parts: that the index holds now. skipped: manifests that cannot be read, or whose
    packs are not there; the log names each."""

    trees: int
    parts: int
    skipped: int


@dataclass(slots=True)
class _Listing:
    """What storage holds. packs: sizes by (namespace, name). deleted: by tree, part. revoked:
    (namespace, key id)."""

    manifests: dict[str, PartName] = field(default_factory=dict)
    packs: dict[tuple[str, str], int] = field(default_factory=dict)
    deleted: dict[tuple[TreeKey, str], int] = field(default_factory=dict)
    quarantined: dict[str, PartName] = field(default_factory=dict)
    revoked: list[tuple[str, str]] = field(default_factory=list)

    def add(self, key: str, size: int) -> None:
        pieces = key.split("/")
        if pieces[1] == "packs":
            self.packs[pieces[0], pieces[-1]] = size
        elif pieces[1] == "trees":
            self.manifests[key] = parse_manifest_key(key)
        elif pieces[1:3] == ["marks", "deleted"]:
            name = parse_deleted_key(key)
            place = (name.tree, name.part)
            self.deleted[place] = max(self.deleted.get(place, 0), name.generation)
        elif pieces[1:3] == ["marks", "quarantined"]:
            self.quarantined[key] = parse_quarantined_key(key)
        elif pieces[1:3] == ["marks", "revoked"]:
            self.revoked.append(parse_revoked_key(key))

    def drop_deleted(self) -> None:
        for key, name in list(self.manifests.items()):
            if name.generation <= self.deleted.get((name.tree, name.part), 0):
                del self.manifests[key]


def reindex(database: Database, store: ObjectStore) -> ReindexSummary:
    """Idempotent. Raises StorageUnavailableError; a manifest that is damaged is only skipped."""
    listing = _Listing()
    for found in store.list(""):
        try:
            listing.add(found.key, found.size)
        except InvalidNameError as error:
            log.warning("%s is none of ours: %s", found.key, error)
    listing.drop_deleted()
    for batch in _batches(listing.deleted.items()):
        with database.write() as db:
            for (tree, part), generation in batch:
                write.hide_generations(db, tree, {part: generation})
                write.remove_generations(db, tree, {part: generation})
    _withhold(database, store, listing)
    _remove_vanished(database, store, listing)
    skipped = _add_new(database, store, listing)
    with database.read() as db:
        return ReindexSummary(
            trees=db.scalar(select(func.count()).where(TreeRow.hidden.is_(False))) or 0,
            parts=db.scalar(select(func.count()).where(PartRow.newest)) or 0,
            skipped=skipped,
        )


def _withhold(database: Database, store: ObjectStore, listing: _Listing) -> None:
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


def _remove_vanished(database: Database, store: ObjectStore, listing: _Listing) -> None:
    """Rows whose manifest is not in storage any more."""
    with database.read() as db:
        known = db.scalars(select(PartRow.manifest))
        vanished = [manifest for manifest in known if manifest not in listing.manifests]
    for manifest in vanished:
        # A commit may have come after the listing.
        if stored_size(store, manifest) is None:
            log.warning("%s is not in storage any more", manifest)
            with database.write() as db:
                write.withdraw(db, manifest)


def _add_new(database: Database, store: ObjectStore, listing: _Listing) -> int:
    """Manifests not in the index yet, oldest first. Returns how many had to be skipped."""
    with database.read() as db:
        known = set(db.scalars(select(PartRow.manifest)))
    new = [key for key in listing.manifests if key not in known]
    read = partial(_read, store)
    order: list[tuple[int, int, str]] = []
    added = 0
    with ThreadPoolExecutor(_READERS) as pool:
        # Each is read twice, once for its time: all at once would not fit into memory.
        for batch in _batches(new):
            for key, manifest in zip(batch, pool.map(read, batch), strict=True):
                if manifest is not None:
                    order.append((manifest.statement.created, manifest.statement.generation, key))
        order.sort()
        for batch in _batches([key for _, _, key in order]):
            found = [manifest for manifest in pool.map(read, batch) if manifest is not None]
            stored = [_stored_packs(store, listing, manifest) for manifest in found]
            with database.write() as db:
                added += sum(map(partial(_add, db), found, stored))
    return len(new) - added


def _add(db: Session, manifest: Manifest, stored: dict[str, int]) -> bool:
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


def _stored_packs(store: ObjectStore, listing: _Listing, manifest: Manifest) -> dict[str, int]:
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
