"""`POST /v1/lookup`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from aotcache.protocol.v1.lookup import Hit, Lookup, Miss

from ...index import history
from ...metrics import BY_HASH, HIT, LOOKUPS, MISS
from ..access import AuthorizationDep
from ..bodies import json_answer
from ..context import ContextDep
from ..errors import miss_answer, problems

router = APIRouter(tags=["lookup"])
_hits = LOOKUPS.labels(BY_HASH, HIT, "")
MISS_ANSWER: dict[int | str, dict[str, Any]] = {
    404: {"model": Miss, "description": "Not stored for this platform, and why"}
}


@router.post("/lookup", response_model=Hit, responses={**problems(400, 413), **MISS_ANSWER})
async def lookup(
    asked: Lookup, context: ContextDep, authorization: AuthorizationDep = None
) -> Response:
    """Is this tree stored for this platform? Its parts' manifests, or why there are none."""
    found = await context.lookups.ask((asked, authorization or ""))
    if isinstance(found, Miss):
        LOOKUPS.labels(BY_HASH, MISS, found.reason).inc()
        context.usage.note(asked.namespace, history.MISS + found.reason, context.database.now())
        return miss_answer(found)
    _hits.inc()
    context.usage.record(found.trees, context.database.now())
    context.usage.note(asked.namespace, history.HIT, context.database.now())
    return json_answer(found.hit)
