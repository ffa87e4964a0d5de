"""`POST /v1/publish` and `POST /v1/publish/{publish id}/commit`."""

from __future__ import annotations

from fastapi import APIRouter

from aotcache.protocol.names import parse_manifest_key
from aotcache.protocol.v1.publish import Commit, Committed, OpenSession, Session

from ...auth import PUBLISH
from ...ops import publish as ops
from ..access import CallerDep
from ..context import ContextDep
from ..errors import problems

router = APIRouter(tags=["publish"])


@router.post("/publish", responses=problems(400, 413))
async def open_session(asked: OpenSession, context: ContextDep, caller: CallerDep) -> Session:
    """Open a publish session, or resume the one of this publish id."""
    caller.require(PUBLISH, asked.namespace)
    return await context.in_storage(
        ops.open_session,
        context.database,
        context.store,
        asked,
        now=context.database.now(),
        lifetime=context.settings.session_seconds,
        storage_url=context.storage_url,
    )


@router.post("/publish/{publish_id}/commit", responses=problems(400, 404, 409, 410, 413))
async def commit(
    publish_id: str, asked: Commit, context: ContextDep, caller: CallerDep
) -> Committed:
    """Add manifests that were put to the index, all or none. Repeating it changes nothing."""
    for key in asked.manifests:
        caller.require(PUBLISH, parse_manifest_key(key).tree.namespace)
    return await context.in_storage(
        ops.commit, context.database, context.store, publish_id, asked, now=context.database.now()
    )
