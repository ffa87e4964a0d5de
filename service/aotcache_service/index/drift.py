"""Recipes whose starts look for another hash each time."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from aotcache.protocol.v1.stats import MAX_DRIFT, Drift

from .models import RecipeRow, TreeRow, recipe_trees

_LOOKED_AT = 100  # recipes with the most hashes
_MANY = 2  # times as many as one start uses


def drift(db: Session, served: Iterable[ColumnElement[bool]]) -> tuple[Drift, ...]:
    """served: conditions on the trees. Reads all rows: not for every request."""
    hashes = func.count(TreeRow.hash.distinct())
    of_one = (TreeRow.namespace, TreeRow.recipe_id, TreeRow.layout, TreeRow.platform_id)
    rows = db.execute(
        select(*of_one, hashes.label("hashes"))
        .where(*served, TreeRow.recipe_id.is_not(None))
        .group_by(*of_one)
        .having(hashes > _MANY)
        .order_by(hashes.desc(), TreeRow.recipe_id)
        .limit(_LOOKED_AT)
    ).all()
    found = []
    for row in rows:
        expected = _of_one_start(db, row.recipe_id, row.layout)
        if row.hashes > _MANY * expected:
            found.append(
                Drift(
                    namespace=row.namespace,
                    model=db.get_one(RecipeRow, row.recipe_id).model,
                    layout=row.layout,
                    platform=row.platform_id,
                    hashes=row.hashes,
                    expected=expected,
                )
            )
    return tuple(found[:MAX_DRIFT])


def _of_one_start(db: Session, recipe: int, layout: str) -> int:
    """The most hashes that one tree says its start used."""
    links = recipe_trees.c
    said = (
        select(func.count().label("hashes"))
        .where(links.recipe_id == recipe, links.layout == layout)
        .group_by(links.tree_id)
        .subquery()
    )
    return max(1, db.scalar(select(func.max(said.c.hashes))) or 1)
