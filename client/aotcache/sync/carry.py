"""Carry stored trees from one store or namespace to another, by way of a directory.

A directory of exported trees holds a cache root for each platform, and beside each tree, as after
every pull, the manifests that it was verified by:

    {platform id}/torch_compile_cache/torch_aot_compile/{hash}/…

Import publishes them as a node would: signed anew with the importer's key, for its namespace, and
only what is not stored there yet. It believes the manifests that its own trust policy accepts, and
nothing else of the directory: what the trees are is said by them, and each file is one of theirs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from aotcache.core.trust import TrustPolicy
from aotcache.errors import (
    InvalidNameError,
    LocalError,
    ManifestError,
    RemoteError,
    TrustError,
    UsageError,
)
from aotcache.local.state import TreeState
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
    """Put one stored tree into `folder`, whole and verified. Repeating it brings what was published
    since. Raises every AotcacheError."""
    about = stored.tree
    if about.platform_id != about.platform.id:
        raise RemoteError(
            f"the service calls platform {about.platform.id} {about.platform_id[:140]!r}: nothing "
            f"of {about.hash[:140]!r} was exported; run `aotcache reindex` there"
        )
    root = os.path.abspath(os.path.join(folder, about.platform_id))
    path = tree_path(root, about.layout, about.hash)
    asked = Lookup(
        layout=about.layout, hash=about.hash, platform=about.platform, namespace=about.namespace
    )
    pulled = pull(site, asked, path)
    if isinstance(pulled, Pulled) and pulled.tree.platform != about.platform_id:
        raise RemoteError(
            f"the service answered with {pulled.tree} in place of the tree for platform "
            f"{about.platform_id[:8]}: `aotcache import` will not take {path}; delete it"
        )
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


def exported(folder: str) -> list[tuple[str, FoundTree]]:
    """The trees that were exported to `folder`, each with its platform's id. Raises UsageError
    where there is none."""
    found: list[tuple[str, FoundTree]] = []
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from error
    for name in names:
        with suppress(InvalidNameError):
            root = os.path.join(os.path.abspath(folder), check_platform_id(name))
            found += [(name, tree) for tree in find_trees(root)]
    if not found:
        raise UsageError(
            f"{folder} holds no exported tree: `aotcache export HASH --to {folder}` puts them there"
        )
    return found


def import_trees(
    site: Site, namespace: str, trees: list[tuple[str, FoundTree]]
) -> Iterator[Published]:
    """Publish them, one after the other. Raises every AotcacheError; what came before it stays."""
    for platform, tree in trees:
        looks = TreeLooks(tree, quiet=0.0)
        scan = looks.look()
        if looks.waiting or not looks.complete:
            raise LocalError(
                f"{tree.path} is not whole: the export was cut off. Repeat it, and then this"
            )
        manifests = _accepted(site.policy, tree)
        ranks = [one for one in manifests if one.statement.part != SHARED]
        identity = identify(tree, scan, [_record(manifest) for manifest in ranks or manifests])
        if identity.platform.id != platform:
            raise TrustError(
                f"{tree.path} is of platform {identity.platform.id}, as its manifests say, and "
                f"lies under {platform}: nothing of it was published; export it again"
            )
        listed = {entry for manifest in manifests for entry in manifest.statement.files}
        yield publish(site, namespace, tree, scan, identity, looks.complete, listed=listed)


def _accepted(policy: TrustPolicy, tree: FoundTree) -> list[Manifest]:
    """The manifests beside an exported tree that this machine trusts, by part. Others may be of an
    earlier import, by somebody else. Raises what the policy says of the last where there is
    none."""
    state = TreeState(tree.path)
    accepted: list[Manifest] = []
    refused: Exception = TrustError(f"{tree.path} has no manifests beside it: export it again")
    for target in state.targets():
        for part, data in state.remembered(target).items():
            try:
                manifest = policy.accept(data, f"{tree.path}, {part}")
            except (TrustError, ManifestError) as error:
                refused = error
                continue
            said = manifest.statement
            if (said.layout, said.hash) == (tree.layout, tree.hash):
                accepted.append(manifest)
    if not accepted:
        raise refused
    return sorted(accepted, key=lambda manifest: manifest.statement.part)
