"""`POST /v1/keys/revoke`."""

from __future__ import annotations

from fastapi import APIRouter

from aotcache.protocol.v1.keys import Revoked, RevokeKey

from ...auth import ADMIN
from ...ops.revoke import revoke_key
from ..access import CallerDep
from ..audit import audited
from ..context import ContextDep
from ..errors import problems

router = APIRouter(tags=["keys"])


@router.post("/keys/revoke", responses=problems(400))
async def revoke(asked: RevokeKey, context: ContextDep, caller: CallerDep) -> Revoked:
    """Stop serving what this key signed, and refuse it from now on. For ever."""
    caller.require(ADMIN, asked.namespace)
    async with audited(context, caller, "revoke key", asked.key, asked.namespace):
        return await context.in_storage(revoke_key, context.database, context.store, asked)
