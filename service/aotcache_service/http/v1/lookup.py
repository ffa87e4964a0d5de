"""`POST /v1/lookup`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from aotcache.protocol.v1.lookup import Hit, Lookup, Miss

from ...index import lookup as index
from ..context import ContextDep, now
from ..errors import miss_answer, problems

router = APIRouter(tags=["lookup"])
MISS: dict[int | str, dict[str, Any]] = {
    404: {"model": Miss, "description": "Not stored for this platform, and why"}
}


@router.post("/lookup", response_model=Hit, responses={**problems(400, 413), **MISS})
def lookup(asked: Lookup, context: ContextDep) -> Hit | JSONResponse:
    """Is this tree stored for this platform? Its parts' manifests, or why there are none."""
    with context.database.read() as db:
        found = index.lookup(db, asked, context.storage_url)
    if isinstance(found, Miss):
        return miss_answer(found)
    context.usage.record(found.trees, now())
    return found.hit
