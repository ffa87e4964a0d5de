"""Deleting trees: marks, then the index, then manifests, then rows.

Killed before all marks are there, nothing changed for a reader; after that, the same call again or
a rebuild of the index completes it. Packs are left for the collector.
"""

from __future__ import annotations

import logging

from sqlalchemy import select

from aotcache.errors import NotFoundError, ObjectExistsError, PinnedError
from aotcache.protocol.names import (
    LAYOUTS,
    TreeKey,
    deleted_key,
    parse_manifest_key,
    pinned_key,
    trees_prefix,
)
from aotcache.protocol.v1.trees import Deleted
from aotcache.storage.base import ObjectStore

from ..index import write
from ..index.database import Database
from ..index.models import TreeRow
from ..index.publishing import find_tree, manifests_of
from ..index.rows import tree_key
from .quarantine import end as end_quarantine
from .reading import is_manifest_key, read_deletions, stored_size

log = logging.getLogger(__name__)


def delete_trees(
    database: Database,
    store: ObjectStore,
    namespace: str,
    tree_hash: str,
    *,
    layout: str = "",
    platform: str = "",
) -> Deleted:
    """Delete every tree of a hash; empty layout, platform: of any. Raises NotFoundError, and
    PinnedError where one of them is pinned: then none is deleted.

    Also one of which the index knows nothing: its publisher died before the commit.
    """
    with database.read() as db:
        query = select(TreeRow).where(TreeRow.namespace == namespace, TreeRow.hash == tree_hash)
        if layout:
            query = query.where(TreeRow.layout == layout)
        if platform:
            query = query.where(TreeRow.platform_id == platform)
        # Hidden rows too: those are what a killed deletion left.
        rows = db.scalars(query.order_by(TreeRow.id)).all()
    keys = [tree_key(row) for row in rows]
    pinned = [str(key) for key, row in zip(keys, rows, strict=True) if row.pinned]
    if pinned:
        raise _pinned(", ".join(pinned))
    uncommitted = set()
    for name in (layout,) if layout else LAYOUTS:
        for manifest in _listed(store, f"{trees_prefix(namespace)}{name}/{tree_hash}/"):
            tree = parse_manifest_key(manifest).tree
            if not platform or tree.platform == platform:
                uncommitted.add(tree)
    keys += sorted(uncommitted.difference(keys))
    if not keys:
        raise NotFoundError(f"no tree of hash {tree_hash[:12]} in namespace {namespace} to delete")
    for key in keys:
        _delete_tree(database, store, key)
        log.info("deleted %s", key)
    return Deleted(trees=tuple(f"{key.namespace}/{key.path}" for key in keys))


def _delete_tree(database: Database, store: ObjectStore, key: TreeKey) -> None:
    # The index may have been lost, and not be rebuilt yet.
    if stored_size(store, pinned_key(key)) is not None:
        raise _pinned(str(key))
    # A killed deletion may have marked more than is left.
    up_to = read_deletions(store, key)
    prefix = f"{trees_prefix(key.namespace)}{key.path}/"
    with database.read() as db:
        tree = find_tree(db, key)
        known = set() if tree is None else manifests_of(db, tree)
    # Also what was put but not committed: a rebuild of the index would find it.
    for manifest in sorted(known.union(_listed(store, prefix))):
        name = parse_manifest_key(manifest)
        up_to[name.part] = max(up_to.get(name.part, 0), name.generation)
    marks = []
    for part, generation in up_to.items():
        mark = deleted_key(key, part, generation)
        try:
            store.put(mark, b"")
        except ObjectExistsError:
            log.debug("%s %s: the deletion had begun already", key, part)
        else:
            marks.append(mark)
    with database.write() as db:
        tree = find_tree(db, key)
        pinned = tree is not None and tree.pinned  # in between
        if not pinned:
            write.hide_generations(db, key, up_to)
    if pinned:
        for mark in marks:
            store.delete(mark)
        raise _pinned(str(key))
    for manifest in _listed(store, prefix):
        name = parse_manifest_key(manifest)
        if name.generation <= up_to.get(name.part, 0):
            store.delete(manifest)
    # Before the rows, which are how the same call finds what a killed one left.
    for part in up_to:
        end_quarantine(database, store, key, part)
    with database.write() as db:
        write.remove_generations(db, key, up_to)


def _pinned(trees: str) -> PinnedError:
    return PinnedError(f"{trees} is pinned: nothing was deleted. `aotcache unpin` it first")


def _listed(store: ObjectStore, prefix: str) -> list[str]:
    """Keys of the manifests there."""
    return [found.key for found in store.list(prefix) if is_manifest_key(found.key)]
