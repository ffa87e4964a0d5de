"""`POST /v1/recipes/lookup`."""

from __future__ import annotations

from fastapi import APIRouter, Response

from aotcache.protocol.v1.lookup import Miss
from aotcache.protocol.v1.recipes import RecipeHit, RecipeLookup

from ...auth import READ
from ...index import history
from ...index import recipes as index
from ...metrics import BY_RECIPE, HIT, LOOKUPS, MISS
from ..access import CallerDep
from ..bodies import json_answer
from ..context import ContextDep
from ..errors import miss_answer, problems
from .lookup import MISS_ANSWER

router = APIRouter(tags=["lookup"])


@router.post(
    "/recipes/lookup", response_model=RecipeHit, responses={**problems(400, 413), **MISS_ANSWER}
)
def lookup_recipe(asked: RecipeLookup, context: ContextDep, caller: CallerDep) -> Response:
    """Which trees did starts of this recipe use, on this platform? What is empty is not compared,
    but engine and model have to be named."""
    caller.require(READ, asked.namespace)
    with context.database.read() as db:
        found = index.lookup_recipe(db, asked, context.storage_url)
    if isinstance(found, Miss):
        LOOKUPS.labels(BY_RECIPE, MISS, found.reason).inc()
        context.usage.note(asked.namespace, history.MISS + found.reason, context.database.now())
        return miss_answer(found)
    LOOKUPS.labels(BY_RECIPE, HIT, "").inc()
    context.usage.record(found.trees, context.database.now())
    context.usage.note(asked.namespace, history.HIT, context.database.now())
    return json_answer(found.hit)
