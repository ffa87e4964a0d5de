"""Carry stored trees from one store or namespace to another, by way of a directory.

A directory of exported trees holds a cache root for each platform, with the engine records that
say what the trees are:

    {platform id}/torch_compile_cache/torch_aot_compile/{hash}/…

Import publishes them as a node would: signed anew with the importer's key, for its namespace, and
only what is not stored there yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from aotcache.errors import InvalidNameError, LocalError, UsageError
from aotcache.local.records import read_records, write_record
from aotcache.probe.trees import FoundTree, find_trees, tree_path
from aotcache.protocol.manifest import Manifest
from aotcache.protocol.names import SHARED, check_platform_id
from aotcache.protocol.record import EngineRecord
from aotcache.protocol.v1.lookup import Lookup, Miss
from aotcache.protocol.v1.trees import TreeDetail
from aotcache.sync.identity import identify
from aotcache.sync.publish import publish
from aotcache.sync.published import Published
from aotcache.sync.pull import Pulled, pull
from aotcache.sync.settle import TreeLooks
from aotcache.sync.site import Site


def export_tree(site: Site, stored: TreeDetail, folder: str) -> Pulled | Miss:
    """Put one stored tree into `folder`, whole and verified, and beside it what its publishers
    knew. Repeating it brings what was published since. Raises every AotcacheError."""
    about = stored.tree
    root = os.path.abspath(os.path.join(folder, about.platform_id))
    path = tree_path(root, about.layout, about.hash)
    asked = Lookup(
        layout=about.layout, hash=about.hash, platform=about.platform, namespace=about.namespace
    )
    pulled = pull(site, asked, path)
    if isinstance(pulled, Pulled):
        manifests = site.manifests([part.manifest for part in stored.parts])
        ranks = [one for one in manifests if one.statement.part != SHARED]
        for manifest in ranks or manifests:
            write_record(path, _record(manifest))
    return pulled


def _record(manifest: Manifest) -> EngineRecord:
    said = manifest.statement
    return EngineRecord(
        layout=said.layout,
        hash=said.hash,
        part=said.part,
        platform=said.platform,
        recipe=said.recipe,
        expected_parts=said.expected_parts,
        compile_seconds=said.compile_seconds,
        hash_factors=said.hash_factors,
        notes=said.notes,
        trees=said.trees,
    )


def exported(folder: str) -> list[FoundTree]:
    """The trees that were exported to `folder`. Raises UsageError where there is none."""
    found: list[FoundTree] = []
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from error
    for name in names:
        with suppress(InvalidNameError):
            found += find_trees(os.path.join(os.path.abspath(folder), check_platform_id(name)))
    if not found:
        raise UsageError(
            f"{folder} holds no exported tree: `aotcache export HASH --to {folder}` puts them there"
        )
    return found


def import_trees(site: Site, namespace: str, trees: list[FoundTree]) -> Iterator[Published]:
    """Publish them, one after the other. Raises every AotcacheError; what came before it stays."""
    for tree in trees:
        looks = TreeLooks(tree, quiet=0.0)
        scan = looks.look()
        if looks.waiting or not looks.complete:
            raise LocalError(
                f"{tree.path} is not whole: the export was cut off. Repeat it, and then this"
            )
        identity = identify(tree, scan, read_records(tree.path))
        yield publish(site, namespace, tree, scan, identity, looks.complete)
