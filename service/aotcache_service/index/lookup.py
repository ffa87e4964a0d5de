"""Look up one hash for a platform. Reads only.

One statement, made once, brings a tree's row together with its parts', and no objects of the ORM
are made of them: those cost several times what the database does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from sqlalchemy import and_, bindparam, select
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

from .database import Database
from .models import PartRow, TreeRow
from .rows import missing_parts, stored_part

# More platforms than one hash ever has: bounds the work of saying why there is none.
MAX_OTHERS = 200

# A row of _SERVED; SQLAlchemy 2.0 and 2.1 write the type of any row in different ways.
PartOfTree: TypeAlias = Any

_tree, _part = TreeRow.__table__.c, PartRow.__table__.c
# A row a part. A tree without one is hidden. Each use of it names an order that indexes have.
_SERVED = select(
    _tree.id,
    _tree.namespace,
    _tree.layout,
    _tree.hash,
    _tree.platform_id,
    _tree.expected_parts,
    _tree.compile_seconds,
    _part.part,
    _part.generation,
    _part.manifest,
    _part.files,
    _part.raw_bytes,
    _part.stored_bytes,
    _part.signers,
    _part.trees,
).join_from(TreeRow.__table__, PartRow.__table__, and_(_part.tree_id == _tree.id, _part.newest))
_SAME_HASH = (
    _tree.namespace == bindparam("namespace"),
    _tree.layout == bindparam("layout"),
    _tree.hash == bindparam("hash"),
    _tree.hidden.is_(False),
)
_USABLE = _SERVED.where(
    *_SAME_HASH, _tree.platform_id.in_([bindparam("closer"), bindparam("any_cpu")])
).order_by(_tree.platform_id, _part.part)
_OTHERS = select(_tree.platform).where(*_SAME_HASH).limit(MAX_OTHERS)
_OF_IDS = _SERVED.where(_tree.id.in_(bindparam("ids", expanding=True))).order_by(
    _tree.id, _part.part
)


@dataclass(frozen=True, slots=True)
class Found:
    """trees: row ids, to count the use of."""

    hit: Hit
    trees: tuple[int, ...]


def lookup_all(
    database: Database, asked: Iterable[Lookup], storage_url: str
) -> list[Found | Miss | Exception]:
    """Each by itself in one snapshot: an answer that cannot be given does not spoil the others."""
    answers: list[Found | Miss | Exception] = []
    with database.read() as db:
        for one in asked:
            try:
                answers.append(lookup(db, one, storage_url))
            except Exception as error:
                answers.append(error)
    return answers


def lookup(db: Session, asked: Lookup, storage_url: str = "") -> Found | Miss:
    """The tree that this platform can use and that has the most of what was asked for."""
    connection = db.connection()
    ids = acceptable(asked.platform)
    names = {"namespace": asked.namespace, "layout": asked.layout, "hash": asked.hash}
    rows = connection.execute(_USABLE, {**names, "closer": ids[0], "any_cpu": ids[1]}).all()
    usable = _by_tree(rows)
    name = f"{asked.namespace}/{asked.layout}/{asked.hash[:12]}"
    if usable:
        stored = {tree: [row.part for row in of_tree] for tree, of_tree in usable.items()}
        tree = min(
            usable,
            key=lambda tree: rank(ids, asked.parts, stored[tree], usable[tree][0].platform_id),
        )
        missing = missing_parts(asked.parts, stored[tree])
        if not missing:
            return Found(_hit(usable[tree], storage_url), (tree,))
        return Miss(
            reason=PART_MISSING,
            message=f"{name}: stored, but not yet {', '.join(missing)}",
            missing=missing,
            available=tuple(stored[tree]),
        )
    return other_platform(connection.execute(_OTHERS, names).scalars(), asked.platform, name)


# Fleets have few platforms, and two digests of JSON cost half as much as the question to SQLite.
@lru_cache(1024)
def acceptable(platform: Platform) -> tuple[str, str]:
    return platform.acceptable()


def rank(
    ids: Sequence[str], asked: Sequence[str], stored: Sequence[str], platform_id: str
) -> tuple[int, int, int]:
    """Smallest for the tree to take: it has the parts asked for or, where none are named, the most;
    of equals the one for this CPU comes before the one for any."""
    missing = len(missing_parts(asked, stored))
    return missing, 0 if asked else -len(stored), ids.index(platform_id)


def hits(db: Session, trees: Sequence[int], storage_url: str) -> list[Hit]:
    """The trees of these row ids with the newest generations of their parts."""
    found = _by_tree(db.connection().execute(_OF_IDS, {"ids": trees}).all())
    return [_hit(found[tree], storage_url) for tree in trees]


def _by_tree(rows: Iterable[PartOfTree]) -> dict[int, list[PartOfTree]]:
    found: dict[int, list[PartOfTree]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(row)
    return found


def _hit(rows: Sequence[PartOfTree], storage_url: str) -> Hit:
    """rows: of one tree."""
    tree = rows[0]
    return Hit(
        namespace=tree.namespace,
        layout=tree.layout,
        hash=tree.hash,
        platform=tree.platform_id,
        parts=tuple(stored_part(row) for row in rows),
        missing=missing_parts(tree.expected_parts, [row.part for row in rows]),
        compile_seconds=tree.compile_seconds,
        storage_url=storage_url,
        trees=_beside(tree, rows),
    )


def _beside(tree: PartOfTree, parts: Iterable[PartOfTree]) -> tuple[TreeUsed, ...]:
    """The other trees that the starts which wrote these parts of it used."""
    itself = (tree.layout, tree.hash)
    others = all_trees(
        (TreeUsed(**one) for one in part.trees if (one["layout"], one["hash"]) != itself)
        for part in parts
    )
    return others[:MAX_TREES_USED]


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
