"""`POST /v1/collect`, `GET /v1/collect`."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter

from aotcache.protocol.v1.collect import Collect, Collection, Keep

from ...auth import ADMIN
from ..access import CallerDep
from ..audit import audited
from ..context import ContextDep
from ..errors import problems

router = APIRouter(prefix="/collect", tags=["collect"])


@router.post("", status_code=202, responses=problems(400, 409))
async def begin(asked: Collect, context: ContextDep, caller: CallerDep) -> Collection:
    """Start a collection. It goes on when this is answered: ask how with GET."""
    caller.require_all(ADMIN)
    action = "reconcile" if asked.reconcile_only else "collect"
    async with audited(context, caller, action, _words(asked), goes_on=True) as noted:
        return await context.in_storage(context.collector.begin, asked, noted)


@router.get("", responses=problems())
async def last(context: ContextDep, caller: CallerDep) -> Collection:
    """The collection that is under way, or what the last one did."""
    caller.require_all(ADMIN)
    return await context.in_storage(context.collector.last)


def _words(asked: Collect) -> str:
    keep = asked.keep or Keep()
    said = ["dry run"] if asked.dry_run else []
    said += [f"keep {value} {name}" for name, value in asdict(keep).items() if value]
    return ", ".join(said)
