"""Which recipes lead to which trees. Each is called inside `Database.write`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from aotcache.protocol.manifest import Statement

from .models import PartRow, RecipeRow, TreeRow, recipe_trees


def find_or_add_recipe(db: Session, statement: Statement) -> int | None:
    """Row id of the statement's recipe, None where it names none."""
    recipe = statement.recipe
    if recipe is None:
        return None
    same = (RecipeRow.namespace == statement.namespace, RecipeRow.name == recipe.id)
    row = db.scalar(select(RecipeRow).where(*same))
    if row is None:
        row = RecipeRow(
            namespace=statement.namespace,
            name=recipe.id,
            engine=recipe.engine,
            model=recipe.model,
            fields=asdict(recipe),
            published=statement.created,
        )
        db.add(row)
    row.published = max(row.published, statement.created)
    db.flush()
    return row.id


def link_recipes(db: Session, tree: TreeRow, parts: Sequence[PartRow]) -> None:
    """What these, all parts of the tree, say: their recipes' starts used this tree and those."""
    told = {
        (part.recipe_id, layout, tree_hash)
        for part in parts
        if part.recipe_id is not None
        for layout, tree_hash in (
            (tree.layout, tree.hash),
            *((used["layout"], used["hash"]) for used in part.trees),
        )
    }
    links = recipe_trees.c
    name = (links.recipe_id, links.layout, links.hash)
    known = {tuple(row) for row in db.execute(select(*name).where(links.tree_id == tree.id))}
    for link in known - told:
        same = (column == value for column, value in zip(name, link, strict=True))
        db.execute(delete(recipe_trees).where(links.tree_id == tree.id, *same))
    if new := sorted(told - known):
        columns = [column.name for column in name]
        db.execute(
            recipe_trees.insert(),
            [dict(zip(columns, link, strict=True), tree_id=tree.id) for link in new],
        )
