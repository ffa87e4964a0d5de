"""Look up one hash for a platform. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from aotcache.protocol.platform import Difference, Platform, differences
from aotcache.protocol.record import MAX_TREES_USED, TreeUsed, all_trees
from aotcache.protocol.v1.lookup import (
    OTHER_PLATFORM,
    PART_MISSING,
    UNKNOWN_HASH,
    Hit,
    Lookup,
    Miss,
)

from .models import PartRow, TreeRow
from .rows import missing_parts, stored_part

# More platforms than one hash ever has: bounds the work of saying why there is none.
MAX_OTHERS = 200


@dataclass(frozen=True, slots=True)
class Found:
    """trees: row ids, to count the use of."""

    hit: Hit
    trees: tuple[int, ...]


def lookup(db: Session, asked: Lookup, storage_url: str = "") -> Found | Miss:
    """The tree that this platform can use and that has the most of what was asked for."""
    same_hash = (
        TreeRow.namespace == asked.namespace,
        TreeRow.layout == asked.layout,
        TreeRow.hash == asked.hash,
        TreeRow.hidden.is_(False),
    )
    ids = asked.platform.acceptable()
    usable = db.scalars(select(TreeRow).where(*same_hash, TreeRow.platform_id.in_(ids)))
    tree = min(usable, key=partial(rank, ids, asked.parts), default=None)
    name = f"{asked.namespace}/{asked.layout}/{asked.hash[:12]}"
    if tree is not None:
        missing = missing_parts(asked.parts, tree.parts)
        if not missing:
            return Found(hits(db, [tree], storage_url)[0], (tree.id,))
        return Miss(
            reason=PART_MISSING,
            message=f"{name}: stored, but not yet {', '.join(missing)}",
            missing=missing,
            available=tuple(tree.parts),
        )
    others = select(TreeRow.platform).where(*same_hash).limit(MAX_OTHERS)
    return other_platform(db.scalars(others), asked.platform, name)


def rank(ids: Sequence[str], parts: Sequence[str], tree: TreeRow) -> tuple[int, int, int]:
    """Smallest for the tree to take: it has the parts asked for or, where none are named, the most;
    of equals the one for this CPU comes before the one for any."""
    missing = len(missing_parts(parts, tree.parts))
    return missing, 0 if parts else -len(tree.parts), ids.index(tree.platform_id)


def hits(db: Session, trees: Sequence[TreeRow], storage_url: str) -> list[Hit]:
    """The trees with the newest generations of their parts."""
    parts: dict[int, list[PartRow]] = {tree.id: [] for tree in trees}
    rows = select(PartRow).where(PartRow.tree_id.in_(parts), PartRow.newest).order_by(PartRow.part)
    for part in db.scalars(rows):
        parts[part.tree_id].append(part)
    return [
        Hit(
            namespace=tree.namespace,
            layout=tree.layout,
            hash=tree.hash,
            platform=tree.platform_id,
            parts=tuple(stored_part(part) for part in parts[tree.id]),
            missing=missing_parts(tree.expected_parts, tree.parts),
            compile_seconds=tree.compile_seconds,
            storage_url=storage_url,
            trees=_beside(tree, parts[tree.id]),
        )
        for tree in trees
    ]


def _beside(tree: TreeRow, parts: Iterable[PartRow]) -> tuple[TreeUsed, ...]:
    """The other trees that the starts which wrote these parts of it used."""
    used = all_trees((TreeUsed(**one) for one in part.trees) for part in parts)
    others = [one for one in used if (one.layout, one.hash) != (tree.layout, tree.hash)]
    return tuple(others[:MAX_TREES_USED])


def other_platform(stored: Iterable[dict[str, str]], asked: Platform, name: str) -> Miss:
    """Stored for other platforms (the nearest tells which fields differ), or not at all."""
    nearest: list[Difference] | None = None
    for fields in stored:
        found = differences(Platform(**fields), asked)
        if nearest is None or len(found) < len(nearest):
            nearest = found
    if nearest is None:
        return Miss(reason=UNKNOWN_HASH, message=f"{name}: nothing is stored under this name")
    what = "; ".join(f"{d.field} {d.stored or '-'} (here {d.asked or '-'})" for d in nearest)
    return Miss(
        reason=OTHER_PLATFORM,
        message=f"{name}: stored only for another platform: {what}",
        differences=tuple(nearest),
    )
