"""`POST /v1/outcomes`."""

from __future__ import annotations

from fastapi import APIRouter

from aotcache.protocol.v1.outcomes import Outcome

from ...auth import READ
from ...ops.quarantine import follow
from ..access import CallerDep
from ..context import ContextDep
from ..errors import problems

router = APIRouter(tags=["outcomes"])


@router.post("/outcomes", status_code=204, responses=problems(400, 404, 413))
async def post_outcome(outcome: Outcome, context: ContextDep, caller: CallerDep) -> None:
    """Tell what the engine did with a part that was pulled."""
    caller.require(READ, outcome.namespace)
    verdict = await context.outcomes.ask((outcome, caller.token))
    if verdict is not None:
        await context.in_storage(
            follow,
            context.database,
            context.store,
            outcome,
            verdict,
            now=context.database.now(),
        )
