"""`GET /v1/stats`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from aotcache.protocol.names import check_namespace
from aotcache.protocol.v1.stats import Stats

from ...auth import READ
from ..access import CallerDep
from ..context import ContextDep
from ..errors import problems

router = APIRouter(tags=["trees"])


@router.get("/stats", responses=problems(400))
def get_stats(
    context: ContextDep,
    caller: CallerDep,
    namespace: Annotated[str, Query(max_length=64, description="Empty: all of the token")] = "",
) -> Stats:
    """What is stored, and what it has saved."""
    if not namespace:
        return context.totals.of(caller.namespaces)
    caller.require(READ, check_namespace(namespace))
    return context.totals.of(frozenset((namespace,)))
