"""Notes what is changed by hand, in the index and in the log: before it is begun, and how it ended.
What was cut off stays as begun."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi.concurrency import run_in_threadpool

from ..auth import Caller
from ..index import audit as index
from ..index.operation import AuditRow
from .context import Context

log = logging.getLogger(__name__)


@asynccontextmanager
async def audited(
    context: Context,
    caller: Caller,
    action: str,
    what: str,
    namespace: str = "",
    way: str = index.API,
    *,
    goes_on: bool = False,
    changes: bool = True,
) -> AsyncIterator[int]:
    """Around it, with the id of the row. namespace: empty for all. goes_on: after this, and
    whatever does it notes how it ended (`index.end`). changes: something that is counted."""
    row = AuditRow(
        at=context.database.now(),
        token=caller.token,
        way=way,
        namespace=namespace,
        action=action,
        what=what[: index.LONGEST],
        outcome=index.BEGUN,
    )
    begun = await run_in_threadpool(_begin, context, row)
    # As it is written in a program: nothing that somebody typed makes a line of its own.
    log.info("%s %r (token %s, by %s)", action, what[: index.LONGEST], caller.token or "none", way)
    try:
        yield begun
    except Exception as error:
        await run_in_threadpool(index.end, context.database, begun, f"failed: {error}")
        raise
    if changes:
        context.totals.forget()  # whoever did it looks
    if not goes_on:
        await run_in_threadpool(index.end, context.database, begun, index.DONE)


def _begin(context: Context, row: AuditRow) -> int:
    with context.database.write() as db:
        return index.begin(db, row)
