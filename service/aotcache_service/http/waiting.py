"""Those who wait for a lease's end: however many they are, one of them looks for all."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict

from anyio import to_thread

from ..index.database import Database
from ..index.leases import Name, held

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # other replicas end leases, too: somebody has to look


class Waiting:
    """To be used on one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[Name, set[asyncio.Future[None]]] = defaultdict(set)
        self._looking: asyncio.Task[None] | None = None
        self.closed = False

    async def for_end(self, name: Name, seconds: float) -> None:
        """Until this lease is not held any more, but not longer than so many seconds."""
        if self.closed:
            return
        over = asyncio.get_running_loop().create_future()
        self._waiting[name].add(over)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            await asyncio.wait((over,), timeout=seconds)
        finally:
            self._waiting[name].discard(over)
            if not self._waiting[name]:
                del self._waiting[name]

    def close(self) -> None:
        """Nobody waits any more: the service ends, and another replica may be asked."""
        self.closed = True
        self._wake(list(self._waiting))

    async def _look(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(LOOK_SECONDS)
                try:
                    still = await to_thread.run_sync(held, self._database)
                except Exception as error:
                    log.warning("leases cannot be read: %s", error)
                    still = set()  # who waits asks again, and is told
                self._wake([name for name in self._waiting if name not in still])
        finally:
            self._looking = None

    def _wake(self, names: list[Name]) -> None:
        for name in names:
            for over in self._waiting[name]:
                if not over.done():
                    over.set_result(None)
