"""Collecting: trees that need not be kept are deleted, then packs that nothing refers to.

A pack is condemned in one transaction, from when on no commit refers to it, and deleted after a
time of grace, which is longer than any session or pull; then its row goes. Killed anywhere, the
next collection goes on. Nobody needs to stop meanwhile.

The index may have been lost, and storage is the truth: they are reconciled first, and a pack that
the index does not know is left alone where a manifest beside it cannot be read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

from aotcache.errors import FormatError, NotFoundError, ObjectMissingError, PinnedError
from aotcache.protocol.names import pack_key
from aotcache.protocol.v1.collect import MAX_NAMED, Collected, Keep
from aotcache.storage.base import DirectStore, ObjectStore

from ..index import garbage, retention
from ..index.database import Database
from .delete import delete_trees
from .listing import Listing, list_storage
from .reading import read_manifest, stored_size
from .reconcile import reconcile
from .repack import SMALL, repack

log = logging.getLogger(__name__)

_BATCH = 500  # packs of one transaction: others can write in between
_WINDOW = 10_000  # rows that are looked through in one

T = TypeVar("T")


def collect(
    database: Database,
    store: DirectStore,
    keep: Keep,
    *,
    clock: Callable[[], int],
    grace: int,
    small: int = SMALL,
    dry_run: bool = False,
    go_on: Callable[[], None] = lambda: None,
) -> Collected:
    """Delete what `keep` does not keep, and what is left of what was deleted `grace` seconds ago.

    clock: seconds since 1970; a collection may take hours. small: bytes; smaller packs are not
    rewritten. go_on: called between steps; what it raises ends the collection. Idempotent, and
    safe beside publishes, pulls, deletions and another collection.
    Raises StorageUnavailableError.
    """
    listing = list_storage(store)
    go_on()
    reconciled = reconcile(database, store, listing, dry_run=dry_run, go_on=go_on)
    with database.read() as db:
        expired = retention.expired(db, keep, clock())
        # What they would leave behind.
        freed = retention.freed(db, expired) if dry_run else (0, 0)
    deleted = 0
    if not dry_run:
        for one in expired:
            deleted += _delete(database, store, one)
            go_on()
    unreadable, referred = _uncommitted(database, store, listing)
    rewritten = repack(database, store, now=clock(), small=small, dry_run=dry_run, go_on=go_on)
    packs = _condemn(database, listing, unreadable, referred, clock, dry_run=dry_run, go_on=go_on)
    gone = _sweep(database, store, clock() - grace, dry_run=dry_run, go_on=go_on)
    with database.read() as db:
        kept = retention.kept_bytes(db)
    return Collected(
        dry_run=dry_run,
        reconciled=reconciled,
        trees=tuple(one.gone for one in expired[:MAX_NAMED]),
        deleted_trees=len(expired) if dry_run else deleted,
        condemned_packs=packs[0] + freed[0],
        condemned_bytes=packs[1] + freed[1],
        deleted_packs=gone[0],
        deleted_bytes=gone[1],
        rewritten_packs=rewritten[0],
        rewritten_bytes=rewritten[1],
        kept_bytes=kept - freed[1],
        warnings=tuple(
            f"packs of namespace {namespace} that the index does not know are left alone, as a "
            f"manifest there cannot be read: {key}"
            for namespace, key in sorted(unreadable.items())
        ),
    )


def _delete(database: Database, store: ObjectStore, one: retention.Expired) -> bool:
    key = one.key
    with database.read() as db:
        if retention.is_used_since(db, one):  # a collection may take hours
            log.info("%s is not deleted: it was used meanwhile", key)
            return False
    try:
        delete_trees(
            database, store, key.namespace, key.hash, layout=key.layout, platform=key.platform
        )
    except (NotFoundError, PinnedError) as error:
        log.info("%s is not deleted: %s", key, error)
        return False
    log.info("%s is collected: %s", key, one.gone.reason)
    return True


def _uncommitted(
    database: Database, store: ObjectStore, listing: Listing
) -> tuple[dict[str, str], set[tuple[str, str]]]:
    """Of manifests that the index does not have: by namespace one that cannot be read, and the
    packs that the others refer to."""
    unreadable: dict[str, str] = {}
    referred: set[tuple[str, str]] = set()
    for batch in _batches(listing.manifests):
        with database.read() as db:
            new = set(batch) - garbage.known_manifests(db, batch)
        for key in sorted(new):
            namespace = key.partition("/")[0]
            try:
                places = read_manifest(store, key).locations.packs
            except ObjectMissingError as error:
                if stored_size(store, key) is None:
                    continue  # deleted since
                log.warning("%s cannot be read: %s", key, error)
                unreadable[namespace] = key  # what it is written against may come back
            except FormatError as error:
                log.warning("%s cannot be read: %s", key, error)
                unreadable[namespace] = key
            else:
                referred.update((namespace, place.name) for place in places)
    return unreadable, referred


def _condemn(
    database: Database,
    listing: Listing,
    unreadable: Mapping[str, str],
    spared: set[tuple[str, str]],
    clock: Callable[[], int],
    *,
    dry_run: bool,
    go_on: Callable[[], None],
) -> tuple[int, int]:
    """Packs, and their bytes, that nothing refers to. unreadable: namespaces in which only what the
    index knows is condemned. spared: (namespace, name): a manifest in storage refers to them, whose
    other packs may come back."""
    packs = size = 0
    with database.read() as db:
        last = garbage.last_pack(db)
    for first in range(1, last + 1, _WINDOW):
        with database.read() if dry_run else database.write() as db:
            rows = garbage.unreferred(db, clock(), first, first + _WINDOW)
            rows = [row for row in rows if (row.namespace, row.name) not in spared]
            if not dry_run:
                garbage.condemn(db, [row.id for row in rows], clock())
        packs, size = packs + len(rows), size + sum(row.size for row in rows)
        go_on()
    for namespace, names in listing.packs.items():
        for batch in () if namespace in unreadable else _batches(names):
            some = {name: names[name] for name in batch if (namespace, name) not in spared}
            if dry_run:
                with database.read() as db:
                    unknown = garbage.unknown(db, namespace, some, clock())
            else:
                with database.write() as db:
                    unknown = garbage.condemn_unknown(db, namespace, some, clock())
            packs, size = packs + len(unknown), size + sum(unknown.values())
            go_on()
    return packs, size


def _sweep(
    database: Database,
    store: ObjectStore,
    before: int,
    *,
    dry_run: bool,
    go_on: Callable[[], None],
) -> tuple[int, int]:
    """Packs, and their bytes, whose grace is over."""
    if dry_run:
        with database.read() as db:
            return garbage.count(db, garbage.condemned_before(before))
    packs = size = 0
    while True:
        with database.read() as db:
            rows = garbage.some_condemned(db, before, _BATCH)
        if not rows:
            return packs, size
        for row in rows:
            store.delete(pack_key(row.namespace, row.name))
        with database.write() as db:
            garbage.forget(db, [row.id for row in rows])
        packs, size = packs + len(rows), size + sum(row.size for row in rows)
        go_on()


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch
