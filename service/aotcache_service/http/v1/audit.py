"""`GET /v1/audit`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from aotcache.protocol.names import check_namespace
from aotcache.protocol.v1.audit import MAX_ACTIONS, Action, Audit

from ...auth import ADMIN
from ...index.audit import listed
from ..access import CallerDep
from ..context import ContextDep
from ..errors import problems

router = APIRouter(tags=["trees"])


@router.get("/audit", responses=problems(400))
def get_audit(
    context: ContextDep,
    caller: CallerDep,
    namespace: Annotated[str, Query(max_length=64, description="Empty: all of the token")] = "",
    before: Annotated[int, Query(ge=0, lt=1 << 62, description="An action's id; 0: the end")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_ACTIONS)] = 100,
) -> Audit:
    """What was changed by hand, the last first."""
    wanted = frozenset((check_namespace(namespace),)) if namespace else caller.namespaces
    for one in ("",) if wanted is None else sorted(wanted):
        caller.require(ADMIN, one)
    with context.database.read() as db:
        rows = listed(db, wanted, before=before, limit=limit)
    return Audit(
        actions=tuple(
            Action(
                id=row.id,
                at=row.at,
                token=row.token,
                way=row.way,
                namespace=row.namespace,
                action=row.action,
                what=row.what,
                outcome=row.outcome,
            )
            for row in rows
        )
    )
