"""`POST /v1/presign`."""

from __future__ import annotations

from fastapi import APIRouter

from aotcache.protocol.names import parse_pack_key
from aotcache.protocol.v1.presign import Presign, Presigned

from ...auth import PUBLISH, READ
from ...ops import presign as ops
from ..access import CallerDep
from ..context import ContextDep
from ..errors import problems

router = APIRouter(tags=["objects"])


@router.post("/presign", responses=problems(400, 410, 413))
async def presign(asked: Presign, context: ContextDep, caller: CallerDep) -> Presigned:
    """URLs to read and write packs straight in object storage: short-lived, one object and one
    method each. None where this service's storage is reached through the service only."""
    for key in asked.read:
        caller.require(READ, parse_pack_key(key).namespace)
    for pack in asked.write:
        caller.require(PUBLISH, parse_pack_key(pack.key).namespace)
    # Credentials of a role are fetched now and then.
    return await context.in_storage(
        ops.presign, context.database, context.presigner, asked, now=context.database.now()
    )
