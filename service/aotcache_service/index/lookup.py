"""Look up hashes for platforms. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import TypeAlias

import msgspec
from sqlalchemy import bindparam, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from aotcache.protocol.platform import Difference, Platform, differences
from aotcache.protocol.record import MAX_TREES_USED, TreeUsed, all_trees
from aotcache.protocol.v1.lookup import (
    OTHER_PLATFORM,
    PART_MISSING,
    QUARANTINED,
    UNKNOWN_HASH,
    Hit,
    Lookup,
    Miss,
)

from ..auth import READ, Caller
from .database import Database
from .models import TreeRow
from .publishing import quarantined
from .rows import missing_parts, stored_part
from .served import Key, Served, served

# More platforms than one hash ever has: bounds the work of saying why there is none.
MAX_OTHERS = 200

# Who asks, or why nobody may, by Authorization header.
Callers: TypeAlias = Callable[[Session, Sequence[str]], list[Caller | Exception]]

_tree = TreeRow.__table__.c
_OTHERS = (
    select(_tree.platform)
    .where(
        _tree.namespace == bindparam("namespace"),
        _tree.layout == bindparam("layout"),
        _tree.hash == bindparam("hash"),
        _tree.hidden.is_(False),
    )
    .limit(MAX_OTHERS)
)


@dataclass(frozen=True, slots=True)
class Found:
    """trees: row ids, to count the use of."""

    hit: Hit
    trees: tuple[int, ...]


def lookup_all(
    database: Database,
    asked: Sequence[tuple[Lookup, str]],
    callers: Callers,
    storage_url: str,
) -> list[Found | Miss | Exception]:
    """In one snapshot, each by itself: an answer that cannot be given does not spoil the others.

    asked: each with its Authorization header.
    """
    with database.read() as db:
        allowed = callers(db, [header for _, header in asked])
        usable = served(db, [_key(one) for one, _ in asked])
        answers: list[Found | Miss | Exception] = []
        for (one, _), caller, rows in zip(asked, allowed, usable, strict=True):
            try:
                if isinstance(caller, Exception):
                    raise caller
                caller.require(READ, one.namespace)
                answers.append(_answer(db, one, rows, storage_url))
            except SQLAlchemyError:
                raise  # the snapshot is lost, for all of them
            except Exception as error:
                answers.append(error)
    return answers


def lookup(db: Session, asked: Lookup, storage_url: str = "") -> Found | Miss:
    """The tree that this platform can use and that has the most of what was asked for."""
    (rows,) = served(db, [_key(asked)])
    return _answer(db, asked, rows, storage_url)


def _key(asked: Lookup) -> Key:
    return (asked.namespace, asked.layout, asked.hash, *acceptable(asked.platform))


# Fleets have few platforms, and two digests of JSON cost half as much as the question to SQLite.
@lru_cache(1024)
def acceptable(platform: Platform) -> tuple[str, str]:
    return platform.acceptable()


def _answer(db: Session, asked: Lookup, rows: Sequence[Served], storage_url: str) -> Found | Miss:
    """rows: of the trees that the platform can use."""
    if not rows:
        if (kept := _quarantined(db, asked, ())) is not None:
            return kept
        names = {"namespace": asked.namespace, "layout": asked.layout, "hash": asked.hash}
        others = db.connection().execute(_OTHERS, names).scalars()
        return other_platform(others, asked.platform, _name(asked))
    ids = acceptable(asked.platform)
    tree = min(
        _by_tree(rows),
        key=lambda tree: rank(ids, asked.parts, [row.part for row in tree], tree[0].platform_id),
    )
    stored = [row.part for row in tree]
    missing = missing_parts(asked.parts, stored)
    if not missing:
        return Found(_hit(tree, storage_url), (tree[0].id,))
    if (kept := _quarantined(db, asked, stored)) is not None:
        return kept
    return Miss(
        reason=PART_MISSING,
        message=f"{_name(asked)}: stored, but not yet {', '.join(missing)}",
        missing=missing,
        available=tuple(stored),
    )


def _quarantined(db: Session, asked: Lookup, served: Sequence[str]) -> Miss | None:
    """If what is asked for and not served is so because nodes failed with it."""
    platforms = acceptable(asked.platform)
    rows = [
        row
        for row in quarantined(db, asked.namespace, asked.layout, asked.hash, platforms)
        if row.part not in served and (not asked.parts or row.part in asked.parts)
    ]
    if not rows:
        return None
    why = "; ".join(f"{row.part}: {row.reason}" for row in rows)
    return Miss(
        reason=QUARANTINED,
        message=f"{_name(asked)}: quarantined: {why[:2000]}",
        missing=tuple(row.part for row in rows),
        available=tuple(served),
    )


def _name(asked: Lookup) -> str:
    return f"{asked.namespace}/{asked.layout}/{asked.hash[:12]}"


def rank(
    ids: Sequence[str], asked: Sequence[str], stored: Sequence[str], platform_id: str
) -> tuple[int, int, int]:
    """Smallest for the tree to take: it has the parts asked for or, where none are named, the most;
    of equals the one for this CPU comes before the one for any."""
    missing = len(missing_parts(asked, stored))
    return missing, 0 if asked else -len(stored), ids.index(platform_id)


def hits(db: Session, trees: Iterable[TreeRow], storage_url: str) -> list[Hit]:
    """These trees with the newest generations of their parts."""
    keys = [
        (tree.namespace, tree.layout, tree.hash, tree.platform_id, tree.platform_id)
        for tree in trees
    ]
    return [_hit(tree, storage_url) for rows in served(db, keys) for tree in _by_tree(rows)]


def _by_tree(rows: Iterable[Served]) -> list[list[Served]]:
    """Each with its parts in the order of their names."""
    found: dict[int, list[Served]] = {}
    for row in sorted(rows, key=attrgetter("part")):
        found.setdefault(row.id, []).append(row)
    return list(found.values())


def _hit(rows: Sequence[Served], storage_url: str) -> Hit:
    """rows: of one tree."""
    tree = rows[0]
    return Hit(
        namespace=tree.namespace,
        layout=tree.layout,
        hash=tree.hash,
        platform=tree.platform_id,
        parts=tuple(stored_part(row, _texts(row.signers)) for row in rows),
        missing=missing_parts(_texts(tree.expected_parts), [row.part for row in rows]),
        compile_seconds=tree.compile_seconds,
        storage_url=storage_url,
        trees=_beside(tree, rows),
    )


@lru_cache(1024)
def _texts(stored: str) -> tuple[str, ...]:
    return tuple(msgspec.json.decode(stored))


def _beside(tree: Served, rows: Iterable[Served]) -> tuple[TreeUsed, ...]:
    """The other trees that the starts which wrote these parts of it used."""
    itself = (tree.layout, tree.hash)
    # Most parts were written by the same start.
    starts = [_trees_used(stored) for stored in dict.fromkeys(row.trees for row in rows)]
    others = [one for used in starts for one in used if (one.layout, one.hash) != itself]
    return all_trees([others])[:MAX_TREES_USED]


@lru_cache(1024)
def _trees_used(stored: str) -> tuple[TreeUsed, ...]:
    return msgspec.json.decode(stored, type=tuple[TreeUsed, ...])


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
