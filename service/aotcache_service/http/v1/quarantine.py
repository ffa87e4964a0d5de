"""`GET|POST /v1/quarantine`, `POST /v1/quarantine/release`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from aotcache.protocol.names import check_namespace
from aotcache.protocol.v1.quarantine import Quarantine, Quarantined, Release, Released

from ...auth import ADMIN, READ
from ...ops import quarantine as ops
from ..access import CallerDep
from ..audit import audited
from ..context import ContextDep
from ..errors import problems

router = APIRouter(prefix="/quarantine", tags=["quarantine"])


@router.get("", responses=problems(400))
def list_quarantined(
    context: ContextDep,
    caller: CallerDep,
    namespace: Annotated[str, Query(max_length=1024, description="Empty: all of the token")] = "",
) -> Quarantined:
    """Parts that are stored and not served, as nodes failed with them."""
    if not namespace:
        return ops.listed(context.database, caller.namespaces)
    caller.require(READ, check_namespace(namespace))
    return ops.listed(context.database, frozenset((namespace,)))


@router.post("", responses=problems(400, 404))
async def put(asked: Quarantine, context: ContextDep, caller: CallerDep) -> Quarantined:
    """Do not serve them until they are released, or replaced by others."""
    caller.require(ADMIN, asked.namespace)
    what = f"{asked.namespace}/{asked.layout}/{asked.hash} {asked.part}: {asked.reason}"
    async with audited(context, caller, "quarantine", what, asked.namespace):
        return await context.in_storage(
            ops.put, context.database, context.store, asked, now=context.database.now()
        )


@router.post("/release", responses=problems(400, 404))
async def release(asked: Release, context: ContextDep, caller: CallerDep) -> Released:
    """Serve them again; what nodes told until now is forgotten."""
    caller.require(ADMIN, asked.namespace)
    what = f"{asked.namespace}/{asked.layout}/{asked.hash} {asked.part}".strip()
    async with audited(context, caller, "release", what, asked.namespace):
        return await context.in_storage(ops.release, context.database, context.store, asked)
