"""Notes what was changed by hand, in the index and in the log."""

from __future__ import annotations

import logging

from fastapi.concurrency import run_in_threadpool

from ..auth import Caller
from ..index import audit as index
from ..index.models import AuditRow
from .context import Context, now

log = logging.getLogger(__name__)


async def audit(
    context: Context,
    caller: Caller,
    action: str,
    what: str,
    namespace: str = "",
    way: str = index.API,
) -> None:
    """After it is done. namespace: empty for all."""
    log.info("%s: %s (token %s, by %s)", action, what, caller.token or "none", way)
    row = AuditRow(
        at=now(),
        token=caller.token,
        way=way,
        namespace=namespace,
        action=action,
        what=what[:2000],
    )
    await run_in_threadpool(_note, context, row)


def _note(context: Context, row: AuditRow) -> None:
    with context.database.write() as db:
        index.note(db, row)
