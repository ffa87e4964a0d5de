"""`POST /v1/lookup`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Response

from aotcache.errors import StorageError
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss, StoredPart
from aotcache.protocol.v1.presign import Presign

from ...index import history
from ...index.lookup import Found
from ...index.references import packs_of
from ...metrics import BY_HASH, HIT, LOOKUPS, MISS, OBJECT_BYTES
from ...ops.presign import presign
from ..access import AuthorizationDep
from ..bodies import json_answer
from ..context import Context, ContextDep
from ..errors import miss_answer, problems

logger = logging.getLogger(__name__)

router = APIRouter(tags=["lookup"])
_MOST_PARTS, _MOST_PACKS = 64, 64  # whose manifests and URLs one answer has
_MOST_FILES = 100_000  # of manifests that one answer has
_MOST_BYTES = 4 << 20  # of these manifests: those of 8 ranks and 10,000 files have 70 kB
_SECONDS = 2.0  # that an answer waits for them
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
    return json_answer(await _with_more(found, asked, context))


async def _with_more(found: Found, asked: Lookup, context: Context) -> Hit:
    """With what a pull asks for next, where that comes at once: a node that is not told asks for
    it, and is told what is wrong."""
    hit = found.hit
    if not asked.manifests and not asked.urls:
        return hit
    wanted = [part for part in hit.parts if not asked.parts or part.part in asked.parts]
    small = len(wanted) <= _MOST_PARTS and sum(part.files for part in wanted) <= _MOST_FILES
    if not small:
        return hit
    more = asyncio.gather(
        _manifests(wanted if asked.manifests else [], context),
        _urls(found, wanted if asked.urls else [], context),
    )
    # Not waited for longer, nor when it is given up: a thread that hangs in storage goes on.
    await asyncio.wait({more}, timeout=_SECONDS)
    if not more.done():
        more.cancel()
        logger.warning(
            "%s is found, without manifests and URLs, which its nodes now ask for: storage or "
            "database took over %g s",
            _name(hit),
            _SECONDS,
        )
        return hit
    if error := more.exception():
        logger.warning(
            "%s is found, without manifests and URLs, which its nodes now ask for: %s",
            _name(hit),
            error,
        )
        return hit
    manifests, urls = more.result()
    seconds = context.presigner.seconds if context.presigner else 0
    parts = tuple(manifests.get(part.part, part) for part in hit.parts)
    return replace(hit, parts=parts, urls=urls, url_seconds=seconds)


def _name(hit: Hit) -> str:
    return f"{hit.namespace}/{hit.layout}/{hit.hash[:12]}"


async def _manifests(parts: Sequence[StoredPart], context: Context) -> dict[str, StoredPart]:
    """The parts with their manifests, as far as those can be read and are small together."""
    room = _MOST_BYTES

    async def read(part: StoredPart) -> StoredPart:
        nonlocal room
        try:
            data = await context.in_lookups(context.store.get, part.manifest)
        except StorageError as error:
            logger.warning(
                "%s is not in the answer to a lookup, its node now asks for it: %s",
                part.manifest,
                error,
            )
            return part
        if len(data) > room:
            return part
        room -= len(data)
        OBJECT_BYTES.labels("out").inc(len(data))
        return replace(part, data=data)

    return {part.part: part for part in await asyncio.gather(*map(read, parts))}


async def _urls(found: Found, parts: Sequence[StoredPart], context: Context) -> dict[str, str]:
    """By key, of all packs that the parts are in; of too many none, as the node may need few."""
    if context.presigner is None or not parts:
        return {}
    names = [part.part for part in parts]
    keys = await context.in_lookups(packs_of, context.database, found.trees, names, _MOST_PACKS + 1)
    if len(keys) > _MOST_PACKS:
        return {}
    asked = Presign(read=tuple(keys))
    signed = await context.in_lookups(
        presign, context.database, context.presigner, asked, now=context.database.now()
    )
    return {key: one.url for key, one in zip(keys, signed.read, strict=True)}
