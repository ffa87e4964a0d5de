"""Is the process alive, and can it answer? Neither asks the database, so neither can hang."""

from __future__ import annotations

from fastapi import APIRouter

from aotcache import __version__
from aotcache.errors import UnavailableError
from aotcache.protocol.v1.ready import Ready
from aotcache.protocol.versions import API

from .context import ContextDep
from .errors import plain_problems

router = APIRouter(tags=["health"])


@router.get("/livez", responses=plain_problems())
async def livez() -> dict[str, str]:
    """200 as long as the process runs."""
    return {"status": "alive"}


@router.get("/readyz", responses=plain_problems(503))
async def readyz(context: ContextDep) -> Ready:
    """200 once the database's tables are of this version."""
    if not context.ready:
        raise UnavailableError("the service is starting: its database is being migrated")
    return Ready(status="ready", version=__version__, api=API)
