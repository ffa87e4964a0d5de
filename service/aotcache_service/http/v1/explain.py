"""`POST /v1/explain`, `GET /v1/misses`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from aotcache.protocol.names import check_namespace
from aotcache.protocol.v1.explain import Explain, Explanation, Misses

from ...auth import READ
from ...index import misses
from ...index.explain import HIT, explain
from ..access import CallerDep
from ..context import ContextDep
from ..errors import problems

router = APIRouter(tags=["lookup"])


@router.post("/explain", responses=problems(400, 413))
def post_explain(asked: Explain, context: ContextDep, caller: CallerDep) -> Explanation:
    """How the nearest stored tree differs. With a node's name the miss is counted."""
    caller.require(READ, asked.namespace)
    with context.database.read() as db:
        said = explain(db, asked)
    if asked.node and said.reason != HIT:
        with context.database.write() as db:
            misses.record(db, asked, said, context.database.now())
        context.misses.forget()
    return said


@router.get("/misses", responses=problems(400))
def get_misses(
    context: ContextDep,
    caller: CallerDep,
    namespace: Annotated[str, Query(max_length=64, description="Empty: all of the token")] = "",
) -> Misses:
    """Which nodes missed in the last days, by why."""
    wanted = caller.namespaces
    if namespace:
        caller.require(READ, check_namespace(namespace))
        wanted = frozenset((namespace,))
    return context.misses.of(wanted)
