"""Look up what starts of a recipe used, where only some of its fields are known. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, case, exists, func, select
from sqlalchemy.orm import Session

from aotcache.protocol.platform import Difference
from aotcache.protocol.recipe import Recipe, differences
from aotcache.protocol.v1.lookup import OTHER_RECIPE, UNKNOWN_RECIPE, Miss
from aotcache.protocol.v1.recipes import MAX_TREES, RecipeHit, RecipeLookup

from .lookup import MAX_OTHERS, acceptable, hits, other_platform, rank
from .models import RecipeRow, TreeRow, recipe_trees

# Recipes of one engine and model that are compared with what is asked, the last published.
_MAX_RECIPES = 200
_SAID = 5  # differences that a message names


@dataclass(frozen=True, slots=True)
class RecipeFound:
    """trees: row ids, to count the use of."""

    hit: RecipeHit
    trees: tuple[int, ...]


def lookup_recipe(db: Session, asked: RecipeLookup, storage_url: str = "") -> RecipeFound | Miss:
    """Trees that this platform can use of the recipes that answer, as RecipeHit says."""
    stored = _same_model(db, asked)
    found = [differences(Recipe(**row.fields), asked.recipe) for row in stored]
    matching = [row for row, differing in zip(stored, found, strict=True) if not differing]
    if not matching:
        return _other_recipe(asked, found)
    # A tree counts where its first recipe does: the number of that in `matching`.
    first = func.min(
        case(
            {row.id: number for number, row in enumerate(matching)}, value=recipe_trees.c.recipe_id
        )
    )
    of_recipes = (
        select(TreeRow, first)
        .join(recipe_trees, _linked(asked.namespace))
        .where(recipe_trees.c.recipe_id.in_([row.id for row in matching]))
        .group_by(TreeRow.id)
    )
    ids = acceptable(asked.platform)
    rows = db.execute(
        of_recipes.where(TreeRow.platform_id.in_(ids))
        .order_by(first, TreeRow.created.desc(), TreeRow.id.desc())
        .limit(MAX_TREES * len(ids))
    ).all()
    if not rows:
        others = of_recipes.with_only_columns(TreeRow.platform).limit(MAX_OTHERS)
        return other_platform(db.scalars(others), asked.platform, _name(asked))
    usable: dict[tuple[str, str], TreeRow] = {}
    for tree, _ in rows:
        name = (tree.layout, tree.hash)
        usable[name] = min(
            usable.get(name, tree), tree, key=lambda one: rank(ids, (), one.parts, one.platform_id)
        )
    trees = list(usable.values())[:MAX_TREES]
    return RecipeFound(
        RecipeHit(recipe=matching[rows[0][1]].name, trees=tuple(hits(db, trees, storage_url))),
        tuple(tree.id for tree in trees),
    )


def _same_model(db: Session, asked: RecipeLookup) -> Sequence[RecipeRow]:
    """Recipes of this engine and model that have trees, the last published first."""
    tree = select(TreeRow.id).join(recipe_trees, _linked(asked.namespace))
    return db.scalars(
        select(RecipeRow)
        .where(
            RecipeRow.namespace == asked.namespace,
            RecipeRow.engine == asked.recipe.engine,
            RecipeRow.model == asked.recipe.model,
            exists(tree.where(recipe_trees.c.recipe_id == RecipeRow.id)),
        )
        .order_by(RecipeRow.published.desc(), RecipeRow.id.desc())
        .limit(_MAX_RECIPES)
    ).all()


def _linked(namespace: str) -> ColumnElement[bool]:
    """Joins links with the trees that are served."""
    return and_(
        TreeRow.layout == recipe_trees.c.layout,
        TreeRow.hash == recipe_trees.c.hash,
        # As an expression no index serves it. SQLite, which has no statistics, would else read all
        # trees of the namespace and look for a link to each: over a second among a million.
        TreeRow.namespace.concat("") == namespace,
        TreeRow.hidden.is_(False),
    )


def _other_recipe(asked: RecipeLookup, stored: Sequence[Sequence[Difference]]) -> Miss:
    """stored: how each recipe of this engine and model differs from the one asked for."""
    if not stored:
        return Miss(
            reason=UNKNOWN_RECIPE,
            message=f"{_name(asked)}: nothing is stored for this engine and model; the model must "
            "be named as in the starts that published",
        )
    nearest = min(stored, key=len)
    said = [f"{d.field} {_short(d.stored)} (asked {_short(d.asked)})" for d in nearest]
    more = [f"{len(said) - _SAID} more"] if len(said) > _SAID else []
    return Miss(
        reason=OTHER_RECIPE,
        message=f"{_name(asked)}: stored only with another recipe: "
        + "; ".join(said[:_SAID] + more),
        differences=tuple(nearest),
    )


def _name(asked: RecipeLookup) -> str:
    return f"{asked.namespace}/{_short(asked.recipe.engine)} {_short(asked.recipe.model)}"


def _short(value: str) -> str:
    return value[:100] or "-"
