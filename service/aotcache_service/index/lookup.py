"""Look up one hash, or all trees of a recipe, for a platform. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from aotcache.protocol.platform import Difference, Platform, differences
from aotcache.protocol.v1.lookup import (
    OTHER_PLATFORM,
    PART_MISSING,
    UNKNOWN_HASH,
    Hit,
    Lookup,
    Miss,
)
from aotcache.protocol.v1.recipes import RecipeHit, RecipeLookup

from .models import PartRow, TreeRow, recipe_trees
from .rows import missing_parts, stored_part

# More platforms than one hash ever has: bounds the work of saying why there is none.
_MAX_OTHERS = 200


@dataclass(frozen=True, slots=True)
class Found:
    """trees: row ids, to count the use of."""

    hit: Hit
    trees: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RecipeFound:
    hit: RecipeHit
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
    tree = min(usable, key=partial(_rank, ids, asked.parts), default=None)
    name = f"{asked.namespace}/{asked.layout}/{asked.hash[:12]}"
    if tree is not None:
        missing = missing_parts(asked.parts, tree.parts)
        if not missing:
            return Found(_hits(db, [tree], storage_url)[0], (tree.id,))
        return Miss(
            reason=PART_MISSING,
            message=f"{name}: stored, but not yet {', '.join(missing)}",
            missing=missing,
            available=tuple(tree.parts),
        )
    others = select(TreeRow.platform).where(*same_hash).limit(_MAX_OTHERS)
    return _other_platform(db.scalars(others), asked.platform, name)


def lookup_recipe(db: Session, asked: RecipeLookup, storage_url: str = "") -> RecipeFound | Miss:
    """Every tree of the recipe that this platform can use, most recently published first."""
    recipe = asked.recipe.id
    of_recipe = (
        select(TreeRow)
        .join(recipe_trees, recipe_trees.c.tree_id == TreeRow.id)
        .where(
            recipe_trees.c.recipe_id == recipe,
            TreeRow.namespace == asked.namespace,
            TreeRow.hidden.is_(False),
        )
    )
    ids = asked.platform.acceptable()
    usable: dict[tuple[str, str], TreeRow] = {}
    for tree in db.scalars(of_recipe.where(TreeRow.platform_id.in_(ids))):
        name = (tree.layout, tree.hash)
        usable[name] = min(usable.get(name, tree), tree, key=partial(_rank, ids, ()))
    if usable:
        trees = sorted(usable.values(), key=lambda tree: (tree.created, tree.id), reverse=True)
        hits = _hits(db, trees, storage_url)
        return RecipeFound(
            RecipeHit(recipe=recipe, trees=tuple(hits)), tuple(tree.id for tree in trees)
        )
    others = of_recipe.with_only_columns(TreeRow.platform).limit(_MAX_OTHERS)
    return _other_platform(
        db.scalars(others),
        asked.platform,
        f"{asked.namespace}/recipe {recipe[:12]} ({asked.recipe.model or asked.recipe.engine})",
    )


def _rank(ids: Sequence[str], parts: Sequence[str], tree: TreeRow) -> tuple[int, int, int]:
    """Smallest for the tree to take: it has the parts asked for or, where none are named, the most;
    of equals the one for this CPU comes before the one for any."""
    missing = len(missing_parts(parts, tree.parts))
    return missing, 0 if parts else -len(tree.parts), ids.index(tree.platform_id)


def _hits(db: Session, trees: Sequence[TreeRow], storage_url: str) -> list[Hit]:
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
        )
        for tree in trees
    ]


def _other_platform(stored: Iterable[dict[str, str]], asked: Platform, name: str) -> Miss:
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
