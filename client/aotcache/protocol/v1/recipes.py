"""`POST /v1/recipes/lookup`: which trees did starts of this recipe use, on this platform?"""

from __future__ import annotations

from dataclasses import dataclass

from aotcache.protocol.names import DEFAULT_NAMESPACE, check_namespace
from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.lookup import Hit


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeLookup:
    recipe: Recipe
    platform: Platform
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        check_namespace(self.namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeHit:
    """200. Every tree of the recipe that this platform can use, most recently published first.
    404 with a Miss where there is none."""

    recipe: str
    trees: tuple[Hit, ...]
