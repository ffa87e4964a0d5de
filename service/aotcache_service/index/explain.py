"""The stored tree that differs least from one that is not there, and in what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from aotcache.protocol.platform import Difference, Platform, differences
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.recipe import differences as recipe_differences
from aotcache.protocol.v1.explain import Explain, Explanation, Nearest
from aotcache.protocol.v1.lookup import Lookup, Miss

from .lookup import lookup
from .models import RecipeRow, TreeRow

HIT = "hit"
_LOOKED_AT = 50  # trees of the same model, the last published first
_NAMED = 3  # fields in a cause
# Digests over all factors of a kind: where one of those is known to differ they say nothing more.
_DIGESTS = {"env": "env.", "config": "config."}


def explain(db: Session, asked: Explain) -> Explanation:
    """Why it is not stored, compared with what is. Reads a few rows, however many trees there
    are."""
    found = lookup(
        db,
        Lookup(
            layout=asked.layout,
            hash=asked.hash,
            platform=asked.platform,
            namespace=asked.namespace,
            parts=asked.parts,
        ),
    )
    if not isinstance(found, Miss):
        return Explanation(reason=HIT, message="it is stored by now", cause="")
    nearest = min(
        (_compared(*row, asked) for row in _candidates(db, asked)), key=_far, default=None
    )
    return Explanation(
        reason=found.reason,
        message=found.message,
        cause=_cause(found, nearest),
        nearest=nearest,
    )


def _candidates(db: Session, asked: Explain) -> Sequence[Row[TreeRow, RecipeRow]]:
    """Trees of this hash for other platforms; else those of the same engine and model."""
    query = select(TreeRow, RecipeRow).outerjoin(RecipeRow, RecipeRow.id == TreeRow.recipe_id)
    query = query.where(
        TreeRow.namespace == asked.namespace,
        TreeRow.layout == asked.layout,
        TreeRow.hidden.is_(False),
    )
    same = db.execute(query.where(TreeRow.hash == asked.hash).limit(_LOOKED_AT)).all()
    if not same and asked.recipe is not None:
        model = query.where(
            TreeRow.model == asked.recipe.model, TreeRow.engine == asked.recipe.engine
        )
        last = model.order_by(TreeRow.created.desc(), TreeRow.id.desc()).limit(_LOOKED_AT)
        same = db.execute(last).all()
    return same


def _compared(tree: TreeRow, recipe: RecipeRow | None, asked: Explain) -> Nearest:
    theirs = None if recipe is None else Recipe(**recipe.fields)
    known = bool(tree.hash_factors and asked.hash_factors)
    return Nearest(
        layout=tree.layout,
        hash=tree.hash,
        platform=tree.platform_id,
        model=tree.model,
        publisher=tree.publisher,
        created=tree.created,
        platform_differences=tuple(differences(Platform(**tree.platform), asked.platform)),
        recipe_differences=tuple(
            recipe_differences(theirs, asked.recipe) if theirs and asked.recipe else ()
        ),
        factor_differences=tuple(_factors(tree.hash_factors, asked.hash_factors) if known else ()),
        known=known,
    )


def _factors(stored: Mapping[str, str], asked: Mapping[str, str]) -> Sequence[Difference]:
    found = [
        Difference(field=name, stored=stored.get(name, ""), asked=asked.get(name, ""))
        for name in sorted(stored.keys() | asked.keys())
        if stored.get(name, "") != asked.get(name, "")
    ]
    names = [one.field for one in found]
    explained = {
        digest
        for digest, prefix in _DIGESTS.items()
        if any(name.startswith(prefix) for name in names)
    }
    return [one for one in found if one.field not in explained]


def _far(one: Nearest) -> tuple[int, int, int]:
    """The same hash first of all is the nearest, then whatever differs in the fewest places."""
    return (
        len(one.platform_differences) + len(one.recipe_differences) + len(one.factor_differences),
        not one.known,
        -one.created,
    )


def _cause(miss: Miss, nearest: Nearest | None) -> str:
    """A few words that are the same for all nodes that miss for the same cause."""
    if nearest is None:
        return miss.reason
    kinds = (
        ("platform", nearest.platform_differences),
        ("recipe", nearest.recipe_differences),
        ("", nearest.factor_differences),
    )
    # What differs in the recipe differs in the hash's factors too, in other words.
    for kind, found in kinds:
        if found:
            names = [f"{kind} {one.field}".strip() for one in found[:_NAMED]]
            more = len(found) - _NAMED
            return ", ".join(names) + (f" and {more} more" if more > 0 else "")
    return miss.reason
