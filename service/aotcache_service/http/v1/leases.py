"""`POST /v1/leases` and `POST /v1/leases/end`."""

from __future__ import annotations

import time
from dataclasses import replace

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from aotcache.protocol.v1.leases import (
    FREE,
    GRANTED,
    HELD,
    STORED,
    AskLease,
    EndLease,
    Lease,
    LeaseEnded,
)
from aotcache.protocol.v1.lookup import Miss

from ...auth import PUBLISH, READ
from ...index import leases
from ...metrics import LEASES
from ..access import AuthorizationDep, CallerDep
from ..context import Context, ContextDep
from ..errors import problems

router = APIRouter(tags=["leases"])


@router.post("/leases", responses=problems(400, 413))
async def ask_lease(
    request: Request,
    asked: AskLease,
    context: ContextDep,
    caller: CallerDep,
    authorization: AuthorizationDep = None,
) -> Lease:
    """Is somebody compiling this part, or shall whoever asks? The answer may take `wait` seconds.

    Who may not publish is given none: what it compiles helps nobody."""
    caller.require(READ, asked.lookup.namespace)
    if not context.settings.lease_seconds or not caller.may(PUBLISH, asked.lookup.namespace):
        asked = replace(asked, holder="")
    end = time.monotonic() + asked.wait
    while True:
        found = await _ask(asked, context, authorization or "")
        left = end - time.monotonic()
        if found.state != HELD or left <= 0 or context.waiting.closed:
            break
        await context.waiting.for_end(leases.name_of(asked), left)
        if await request.is_disconnected():
            break  # who is gone would compile nothing, and others would wait for it
    LEASES.labels(found.state).inc()
    return found


@router.post("/leases/end", responses=problems(400, 413))
async def end_lease(asked: EndLease, context: ContextDep, caller: CallerDep) -> LeaseEnded:
    """Let go: others may compile it, or need not wait for it any more."""
    caller.require(PUBLISH, asked.lookup.namespace)
    return LeaseEnded(ended=await run_in_threadpool(leases.end, context.database, asked))


async def _ask(asked: AskLease, context: Context, authorization: str) -> Lease:
    seconds = context.settings.lease_seconds
    held = await context.leases.ask(asked)
    # After it, so that what is committed in between is seen by one or the other.
    if not isinstance(await context.lookups.ask((asked.lookup, authorization)), Miss):
        if held is not None and held.mine:
            done = EndLease(lookup=asked.lookup, part=asked.part, holder=asked.holder)
            await run_in_threadpool(leases.end, context.database, done)
        return Lease(state=STORED, seconds=seconds)
    if held is None:
        return Lease(state=FREE, seconds=seconds)
    return Lease(
        state=GRANTED if held.mine else HELD,
        seconds=seconds,
        elapsed=held.elapsed,
        compile_seconds=held.compile_seconds,
        node=held.node,
    )
