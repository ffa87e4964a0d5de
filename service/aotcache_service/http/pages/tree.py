"""`GET /trees/{namespace}/{layout}/{hash}/{platform}` and `.../files`: one tree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response

from aotcache.protocol.manifest import Manifest
from aotcache.protocol.names import (
    TreeKey,
    check_hash,
    check_layout,
    check_namespace,
    check_platform_id,
)
from aotcache.storage.base import ObjectStore

from ...auth import ADMIN
from ...index.database import Database
from ...index.detail import Tree, tree_detail
from ...ops.reading import read_manifest
from ..context import ContextDep
from .render import render
from .route import page_router
from .visitors import VisitorDep

router = page_router()
PATH = "/trees/{namespace}/{layout}/{hash}/{platform}"

_MAX_PARTS = 64  # whose manifests one page reads
_MAX_KINDS = 100
_NAMED = {"model", "agraph"}  # files that vLLM and Inductor name so
# Said when an action is done: what an address holds is never shown.
_DONE = {
    "pin": "It is pinned now.",
    "unpin": "It is not pinned any more.",
    "quarantine": "It is quarantined now: nodes compile instead of loading it.",
    "release": "It is served again.",
    "earlier": "The earlier generation is served now.",
}


async def _key(
    namespace: str, layout: str, hash: str, platform: str, visitor: VisitorDep
) -> TreeKey:
    visitor.caller.require(ADMIN, check_namespace(namespace))
    return TreeKey(
        namespace=namespace,
        layout=check_layout(layout),
        hash=check_hash(layout, hash),
        platform=check_platform_id(platform),
    )


KeyDep = Annotated[TreeKey, Depends(_key)]


def address(key: TreeKey, action: str = "") -> str:
    return f"/trees/{key.namespace}/{key.path}" + (f"/{action}" if action else "")


@router.get(PATH)
def tree_page(
    request: Request,
    context: ContextDep,
    visitor: VisitorDep,
    key: KeyDep,
    done: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    with context.database.read() as db:
        tree = tree_detail(db, key)
    return render(
        request, "tree.html", visitor, tree=tree, at=address(key), done=_DONE.get(done, "")
    )


@dataclass(slots=True)
class Kind:
    """Of the files of a tree with one suffix. unique: bytes of those that differ."""

    name: str
    files: int = 0
    raw: int = 0
    unique: int = 0
    _seen: set[str] = field(default_factory=set)

    def add(self, size: int, digest: str) -> None:
        self.files += 1
        self.raw += size
        if digest not in self._seen:
            self._seen.add(digest)
            self.unique += size


@router.get(PATH + "/files")
async def files_page(
    request: Request, context: ContextDep, visitor: VisitorDep, key: KeyDep
) -> Response:
    """Its files by kind: what only the manifests in storage say."""
    found = await context.in_storage(_kinds, context.database, context.store, key)
    return render(request, "files.html", visitor, key=key, at=address(key), **found)


def _kinds(database: Database, store: ObjectStore, key: TreeKey) -> dict[str, Any]:
    with database.read() as db:
        tree = tree_detail(db, key)
    every, kinds = Kind("all"), dict[str, Kind]()
    for manifest in _manifests(store, tree):
        for entry in manifest.statement.files:
            path = PurePosixPath(entry.path)
            name = path.suffix or (path.name if path.name in _NAMED else "no suffix")
            every.add(entry.size, entry.digest)
            kinds.setdefault(name, Kind(name)).add(entry.size, entry.digest)
    by_size = sorted(kinds.values(), key=lambda kind: (-kind.raw, kind.name))
    served = sum(part.served is not None for part in tree.parts)
    return {"every": every, "kinds": by_size[:_MAX_KINDS], "left_out": max(0, served - _MAX_PARTS)}


def _manifests(store: ObjectStore, tree: Tree) -> Iterable[Manifest]:
    served = [part.served for part in tree.parts if part.served is not None]
    return (read_manifest(store, row.manifest) for row in served[:_MAX_PARTS])
