"""One tree, with all that the index knows of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from aotcache.errors import NotFoundError
from aotcache.protocol.names import TreeKey
from aotcache.protocol.v1.trees import TreeSummary

from .models import OutcomeRow, PartRow, QuarantineRow, RecipeRow, TreeRow, recipe_trees
from .publishing import find_tree
from .rows import summary

_NAMED = 20


@dataclass(frozen=True, slots=True)
class Part:
    """generations: all that are stored, the last one first. outcomes: of all of them. quarantine:
    None where nothing is."""

    name: str
    generations: Sequence[PartRow]
    outcomes: Sequence[OutcomeRow]
    quarantine: QuarantineRow | None

    @property
    def has_earlier(self) -> bool:
        """Whether there is one to serve in place of the one that is."""
        usable = [row for row in self.generations if not row.withheld]
        return self.quarantine is None and len(usable) > 1

    @property
    def served(self) -> PartRow | None:
        return next((row for row in self.generations if row.newest), None)


@dataclass(frozen=True, slots=True)
class Tree:
    """saved_seconds: of compiling, less those of all pulls. unlike: hashes of
    other trees of the same recipe, layout and platform, the last ones first."""

    key: TreeKey
    summary: TreeSummary
    parts: Sequence[Part]
    hash_factors: dict[str, str]
    notes: dict[str, str]
    pulls: int
    pulled_bytes: int
    pull_seconds: float
    saved_seconds: float
    unlike: Sequence[str]


def tree_detail(db: Session, key: TreeKey) -> Tree:
    """Also of one that is withheld whole. Raises NotFoundError."""
    row = find_tree(db, key)
    if row is None:
        raise NotFoundError(f"{key} is not stored: it was deleted, or the address is wrong")
    recipe = None if row.recipe_id is None else db.get(RecipeRow, row.recipe_id)
    parts, outcomes, quarantines = defaultdict(list), defaultdict(list), {}
    rows = select(PartRow).where(PartRow.tree_id == row.id)
    for part in db.scalars(rows.order_by(PartRow.part, PartRow.generation.desc())):
        parts[part.part].append(part)
    told = select(OutcomeRow).where(OutcomeRow.tree_id == row.id)
    for one in db.scalars(told.order_by(OutcomeRow.generation.desc(), OutcomeRow.outcome)):
        outcomes[one.part].append(one)
    held = select(QuarantineRow).where(
        QuarantineRow.namespace == key.namespace,
        QuarantineRow.layout == key.layout,
        QuarantineRow.hash == key.hash,
        QuarantineRow.platform_id == key.platform,
    )
    for found in db.scalars(held):
        quarantines[found.part] = found
    every = [one for some in outcomes.values() for one in some]
    counts: dict[str, int] = defaultdict(int)
    for one in every:
        counts[one.outcome] += one.count
    return Tree(
        key=key,
        summary=summary(row, recipe, dict(counts)),
        parts=tuple(
            Part(name, parts[name], outcomes[name], quarantines.get(name)) for name in sorted(parts)
        ),
        hash_factors=row.hash_factors,
        notes=row.notes,
        pulls=sum(one.count for one in every),
        pulled_bytes=sum(one.pulled_bytes for one in every),
        pull_seconds=sum(one.pull_seconds for one in every),
        saved_seconds=sum(one.saved_seconds for one in every),
        unlike=_unlike(db, row),
    )


def _unlike(db: Session, row: TreeRow) -> Sequence[str]:
    if row.recipe_id is None:
        return ()
    links = recipe_trees.c
    said = select(links.hash).where(links.recipe_id == row.recipe_id, links.layout == row.layout)
    query = select(TreeRow.hash).where(
        TreeRow.namespace == row.namespace,
        TreeRow.layout == row.layout,
        TreeRow.hash.in_(said),
        TreeRow.platform_id == row.platform_id,
        TreeRow.recipe_id == row.recipe_id,
        TreeRow.id != row.id,
    )
    return db.scalars(query.order_by(TreeRow.created.desc()).limit(_NAMED)).all()
