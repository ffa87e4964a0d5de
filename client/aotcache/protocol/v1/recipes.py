"""`POST /v1/recipes/lookup`: which trees did starts of this recipe use, on this platform?"""

from __future__ import annotations

from dataclasses import dataclass

from aotcache.errors import UsageError
from aotcache.protocol.names import DEFAULT_NAMESPACE, check_namespace
from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.lookup import Hit

MAX_TREES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeLookup:
    """recipe: what is known of it, engine and model at least (`Recipe.answers`)."""

    recipe: Recipe
    platform: Platform
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        if not self.recipe.model:
            raise UsageError(
                "the recipe names no model, so that every start would answer: say which model the "
                "engine is asked to run"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeHit:
    """200. The trees of all recipes that answer and that this platform can use: those of the most
    recently published recipe first, at most MAX_TREES. 404 with a Miss where there is none.

    recipe: id of the first one.
    """

    recipe: str
    trees: tuple[Hit, ...]
