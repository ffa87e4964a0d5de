"""`POST /v1/lookup`."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Response

from aotcache.errors import StorageError
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss, StoredPart

from ...index import history
from ...metrics import BY_HASH, HIT, LOOKUPS, MISS, OBJECT_BYTES
from ..access import AuthorizationDep
from ..bodies import json_answer
from ..context import Context, ContextDep
from ..errors import miss_answer, problems

logger = logging.getLogger(__name__)

router = APIRouter(tags=["lookup"])
_MOST_PARTS = 64  # whose manifests one answer has
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
    return json_answer(await _with_manifests(found.hit, asked, context))


async def _with_manifests(hit: Hit, asked: Lookup, context: Context) -> Hit:
    """With those asked for, as far as they can be read: the node fetches the rest, and is told what
    is wrong with it."""
    wanted = [part for part in hit.parts if not asked.parts or part.part in asked.parts]
    if not asked.manifests or len(wanted) > _MOST_PARTS:
        return hit

    async def read(part: StoredPart) -> StoredPart:
        try:
            data = await context.in_storage(context.store.get, part.manifest)
        except StorageError as error:
            logger.warning("%s is not in an answer: %s", part.manifest, error)
            return part
        OBJECT_BYTES.labels("out").inc(len(data))
        return replace(part, data=data)

    found = {part.part: part for part in await asyncio.gather(*map(read, wanted))}
    return replace(hit, parts=tuple(found.get(part.part, part) for part in hit.parts))
