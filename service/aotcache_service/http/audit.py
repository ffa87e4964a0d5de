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

_LONGEST = 2000  # characters


@asynccontextmanager
async def audited(
    context: Context,
    caller: Caller,
    action: str,
    what: str,
    namespace: str = "",
    way: str = index.API,
) -> AsyncIterator[None]:
    """Around it. namespace: empty for all."""
    row = AuditRow(
        at=context.database.now(),
        token=caller.token,
        way=way,
        namespace=namespace,
        action=action,
        what=what[:_LONGEST],
        outcome=index.BEGUN,
    )
    begun = await run_in_threadpool(_begin, context, row)
    # As it is written in a program: nothing that somebody typed makes a line of its own.
    log.info("%s %r (token %s, by %s)", action, what[:_LONGEST], caller.token or "none", way)
    try:
        yield
    except Exception as error:
        await run_in_threadpool(_end, context, begun, f"failed: {error}"[:_LONGEST])
        raise
    context.totals.forget()  # whoever did it looks
    await run_in_threadpool(_end, context, begun, index.DONE)


def _begin(context: Context, row: AuditRow) -> int:
    with context.database.write() as db:
        return index.begin(db, row)


def _end(context: Context, row: int, outcome: str) -> None:
    try:
        with context.database.write() as db:
            index.end(db, row, outcome.replace("\0", " "))
    except Exception as error:
        # It is done, or has failed for its own reason: that is what is answered.
        log.warning("how it ended is not noted: %s", error)
