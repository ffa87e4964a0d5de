"""Add to the index what object storage holds and it does not: manifests, oldest first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from aotcache.errors import CondemnedError, FormatError, ObjectMissingError
from aotcache.protocol.manifest import Manifest
from aotcache.protocol.names import PartName, pack_key
from aotcache.storage.base import ObjectStore

from ..index import publishing, write
from ..index.database import Database
from .listing import Listing
from .reading import read_manifest, stored_size, weight

log = logging.getLogger(__name__)

_BATCH = 200  # manifests of one transaction: others can write in between
_BATCH_WEIGHT = 500_000  # of them all, as they are in memory together
READERS = 16  # requests that wait for storage at the same time

T = TypeVar("T")


class _Place(NamedTuple):
    """When a manifest is added, and how much memory it takes."""

    created: int
    generation: int
    key: str
    weight: int


def add(
    database: Database,
    store: ObjectStore,
    listing: Listing,
    new: list[str],
    go_on: Callable[[], None],
) -> list[str]:
    """Add these manifests, oldest first. Returns those that cannot be."""
    order: list[_Place] = []
    skipped: list[str] = []
    with ThreadPoolExecutor(READERS) as pool:
        # Each is read twice, once for its time: all at once would not fit into memory.
        for batch in in_batches(new):
            for key, place in zip(batch, pool.map(partial(_place, store), batch), strict=True):
                if place is None:
                    skipped.append(key)
                else:
                    order.append(place)
            go_on()
        order.sort()
        for batch in _light_batches(order):
            manifests = list(pool.map(partial(_read, store), batch))
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
            write.refresh(db, write.add_part(db, manifest, stored))
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
        size = listing.packs[namespace].get(place.name)
        if size is None:
            # Packs are listed before manifests: this one may have come in between.
            size = stored_size(store, pack_key(namespace, place.name))
        if size is not None:
            sizes[place.name] = size
    return sizes


def _place(store: ObjectStore, key: str) -> _Place | None:
    manifest = _read(store, key)
    if manifest is None:
        return None
    return _Place(manifest.statement.created, manifest.statement.generation, key, weight(manifest))


def _light_batches(order: Iterable[_Place]) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for place in order:
        if batch and (len(batch) == _BATCH or held + place.weight > _BATCH_WEIGHT):
            yield batch
            batch, held = [], 0
        batch.append(place.key)
        held += place.weight
    if batch:
        yield batch


def in_batches(items: Iterable[T]) -> Iterator[list[T]]:
    """As many as one transaction takes."""
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch
