"""Recipes whose starts look for another hash each time."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from aotcache.protocol.v1.stats import MAX_DRIFT, Drift

from .models import TreeRow, recipe_trees

_LOOKED_AT = 100  # recipes with the most hashes
_MANY = 2  # times as many as one start uses


def drift(db: Session, served: Iterable[ColumnElement[bool]]) -> tuple[Drift, ...]:
    """served: conditions on the trees. Reads all rows: not for every request."""
    hashes = func.count(TreeRow.hash.distinct())
    of_one = (TreeRow.namespace, TreeRow.recipe_id, TreeRow.layout, TreeRow.platform_id)
    rows = db.execute(
        select(*of_one, func.max(TreeRow.id).label("one"), hashes.label("hashes"))
        .where(*served, TreeRow.recipe_id.is_not(None))
        .group_by(*of_one)
        .having(hashes > _MANY)
        .order_by(hashes.desc(), TreeRow.recipe_id)
        .limit(_LOOKED_AT)
    ).all()
    expected = of_one_start(db, {row.recipe_id for row in rows})
    worst = [
        row for row in rows if row.hashes > _MANY * expected.get((row.recipe_id, row.layout), 1)
    ][:MAX_DRIFT]
    some = select(TreeRow.id, TreeRow.model, TreeRow.platform)
    trees = {row.id: row for row in db.execute(some.where(TreeRow.id.in_(r.one for r in worst)))}
    return tuple(
        Drift(
            namespace=row.namespace,
            model=trees[row.one].model,
            layout=row.layout,
            platform=row.platform_id,
            hashes=row.hashes,
            expected=expected.get((row.recipe_id, row.layout), 1),
            device=trees[row.one].platform["device"],
            torch=trees[row.one].platform["torch"],
        )
        for row in worst
    )


def of_one_start(db: Session, recipes: Collection[int] | None = None) -> dict[tuple[int, str], int]:
    """By recipe and layout, the most hashes that one tree says its start used. recipes: of which,
    None: of all."""
    links = recipe_trees.c
    said = select(links.recipe_id, links.layout, func.count().label("hashes"))
    if recipes is not None:
        said = said.where(links.recipe_id.in_(sorted(recipes)))
    trees = said.group_by(links.recipe_id, links.layout, links.tree_id).subquery()
    most = select(trees.c.recipe_id, trees.c.layout, func.max(trees.c.hashes))
    rows = db.execute(most.group_by(trees.c.recipe_id, trees.c.layout))
    return {(recipe, layout): hashes for recipe, layout, hashes in rows}
