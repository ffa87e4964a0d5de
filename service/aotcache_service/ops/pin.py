"""Pins: trees that are not deleted until they are unpinned. A mark in storage comes first, so that
a rebuilt index knows them."""

from __future__ import annotations

import logging

from sqlalchemy import select
from sqlalchemy.orm import Session

from aotcache.errors import InvalidNameError, NotFoundError, ObjectExistsError
from aotcache.protocol.names import TreeKey, parse_pinned_key, pinned_key, pinned_prefix
from aotcache.protocol.v1.trees import Pinned
from aotcache.storage.base import ObjectStore

from ..index import write
from ..index.database import Database
from ..index.listing import Filter
from ..index.models import PartRow, TreeRow
from ..index.publishing import deleted_up_to, find_tree
from ..index.rows import tree_key

log = logging.getLogger(__name__)


def pin(database: Database, store: ObjectStore, wanted: Filter) -> Pinned:
    """Keep all trees of a hash until they are unpinned. Repeating it changes nothing. Raises
    NotFoundError."""
    keys = _found(database, wanted)
    for key in keys:
        mark = pinned_key(key)
        try:
            store.put(mark, b"")
        except ObjectExistsError:
            log.debug("%s is marked already", key)
        with database.write() as db:
            gone = not _is_kept(db, key)
            if not gone:
                write.pin(db, key)
        if gone:
            # It would keep whatever is published under this name.
            store.delete(mark)
            raise NotFoundError(f"{key} was deleted meanwhile")
        log.info("%s is pinned", key)
    return _said(keys)


def unpin(database: Database, store: ObjectStore, wanted: Filter) -> Pinned:
    """The trees of a hash may be deleted again. Raises NotFoundError. Also those that are withheld,
    and those of which a lost index knows nothing yet."""
    keys = _marked(database, store, wanted)
    for key in keys:
        store.delete(pinned_key(key))
        with database.write() as db:
            write.pin(db, key, pinned=False)
        log.info("%s is not pinned any more", key)
    return _said(keys)


def _is_kept(db: Session, key: TreeKey) -> bool:
    """Whether it is there, and not being deleted; it may be withheld."""
    tree = find_tree(db, key)
    if tree is None:
        return False
    parts = db.scalars(select(PartRow).where(PartRow.tree_id == tree.id)).all()
    return any(row.generation > deleted_up_to(db, key, row.part) for row in parts)


def _said(keys: list[TreeKey]) -> Pinned:
    return Pinned(trees=tuple(f"{key.namespace}/{key.path}" for key in keys))


def _marked(database: Database, store: ObjectStore, wanted: Filter) -> list[TreeKey]:
    """Pinned trees; where there is none, those that are not: repeating it is no error."""
    pinned = (
        select(TreeRow)
        .where(TreeRow.pinned, *wanted.conditions(hidden=True))
        .where(TreeRow.hash == wanted.hash)
    )
    with database.read() as db:
        found = {tree_key(row) for row in db.scalars(pinned)}
    for namespace in wanted.namespaces or ():
        for mark in store.list(pinned_prefix(namespace)):
            try:
                key = parse_pinned_key(mark.key)
            except InvalidNameError:
                continue  # somebody else's
            same = (
                key.hash == wanted.hash,
                wanted.layout in {"", key.layout},
                wanted.platform_id in {"", key.platform},
            )
            if all(same):
                found.add(key)
    return sorted(found) or _found(database, wanted)


def _found(database: Database, wanted: Filter) -> list[TreeKey]:
    query = select(TreeRow).where(*wanted.conditions(), TreeRow.hash == wanted.hash)
    with database.read() as db:
        keys = [tree_key(row) for row in db.scalars(query.order_by(TreeRow.id))]
    if not keys:
        raise NotFoundError(
            f"no tree of hash {wanted.hash[:12]} is stored; `aotcache ls` lists what is"
        )
    return keys
