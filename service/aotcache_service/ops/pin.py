"""Pins: trees that are not deleted until they are unpinned. A mark in storage comes first, so that
a rebuilt index knows them."""

from __future__ import annotations

import logging

from sqlalchemy import select

from aotcache.errors import NotFoundError, ObjectExistsError
from aotcache.protocol.names import TreeKey, pinned_key
from aotcache.protocol.v1.trees import Pinned
from aotcache.storage.base import ObjectStore

from ..index import write
from ..index.database import Database
from ..index.listing import Filter
from ..index.models import TreeRow
from ..index.rows import tree_key

log = logging.getLogger(__name__)


def pin(database: Database, store: ObjectStore, wanted: Filter) -> Pinned:
    """Keep all trees of a hash until they are unpinned. Repeating it changes nothing. Raises
    NotFoundError."""
    keys = _found(database, wanted)
    for key in keys:
        try:
            store.put(pinned_key(key), b"")
        except ObjectExistsError:
            log.debug("%s is marked already", key)
        with database.write() as db:
            if not write.pin(db, key):
                raise NotFoundError(f"{key} was deleted meanwhile")
        log.info("%s is pinned", key)
    return _said(keys)


def unpin(database: Database, store: ObjectStore, wanted: Filter) -> Pinned:
    """The trees of a hash may be deleted again. Raises NotFoundError."""
    keys = _found(database, wanted)
    for key in keys:
        store.delete(pinned_key(key))
        with database.write() as db:
            write.pin(db, key, pinned=False)
        log.info("%s is not pinned any more", key)
    return _said(keys)


def _said(keys: list[TreeKey]) -> Pinned:
    return Pinned(trees=tuple(f"{key.namespace}/{key.path}" for key in keys))


def _found(database: Database, wanted: Filter) -> list[TreeKey]:
    query = select(TreeRow).where(*wanted.conditions(), TreeRow.hash == wanted.hash)
    with database.read() as db:
        keys = [tree_key(row) for row in db.scalars(query.order_by(TreeRow.id))]
    if not keys:
        raise NotFoundError(
            f"no tree of hash {wanted.hash[:12]} is stored; `aotcache ls` lists what is"
        )
    return keys
