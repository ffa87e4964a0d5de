"""What every route works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request

from aotcache.protocol.v1.leases import AskLease
from aotcache.protocol.v1.lookup import Lookup, Miss
from aotcache.protocol.v1.outcomes import Outcome
from aotcache.storage.base import ObjectStore

from ..auth import Caller
from ..index.database import Database
from ..index.leases import Held, ask_all
from ..index.lookup import Callers, Found, lookup_all
from ..index.misses import MissGroups
from ..index.totals import Totals
from ..index.usage import UsageCounter
from ..ops.presign import Presigner
from ..ops.quarantine import Verdict, count_all
from ..settings import ServiceSettings
from .collector import Collector
from .gather import Gather
from .limits import Uploads
from .waiting import Waiting

TOKEN = "aotcache.token"  # in a request's scope: the id of the token that it came with  # noqa: S105
UPLOADS = 8
# Threads that may wait for object storage. Lookups have others: they answer while it hangs.
STORAGE_THREADS = 32
# Of lookups that are answered with more than the index has: what they read is in memory at once.
LOOKUP_READS = 8
# Threads that look up, each for all that wait. With one alone a connection to PostgreSQL that hangs
# would hold up everybody; to SQLite there is none, and a second thread only gets in the way.
LOOKUP_THREADS = 2

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Context:
    """presigner: None where nodes reach the store through this service only. gate: says who asks.
    ready: the database's tables are of this version. totals, misses: what the index holds, counted
    now and then. lookups: are asked with the Authorization header; callers: by it."""

    settings: ServiceSettings
    database: Database
    store: ObjectStore
    usage: UsageCounter
    gate: Callers
    collector: Collector
    totals: Totals
    misses: MissGroups
    presigner: Presigner | None = None
    ready: bool = False
    uploads: Uploads = field(default_factory=lambda: Uploads(UPLOADS))
    storage_threads: CapacityLimiter = field(
        default_factory=lambda: CapacityLimiter(STORAGE_THREADS)
    )
    lookup_reads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(LOOKUP_READS))
    lookups: Gather[tuple[Lookup, str], Found | Miss] = field(init=False)
    callers: Gather[str, Caller] = field(init=False)
    leases: Gather[AskLease, Held | None] = field(init=False)
    outcomes: Gather[tuple[Outcome, str], Verdict | None] = field(init=False)
    waiting: Waiting = field(init=False)

    def __post_init__(self) -> None:
        threads = 1 if self.database.sqlite_file else LOOKUP_THREADS
        self.lookups = Gather(
            lambda asked: lookup_all(self.database, asked, self.gate, self.storage_url), threads
        )
        self.callers = Gather(self._callers, threads)
        self.leases = Gather(
            lambda asked: ask_all(self.database, asked, self.settings.lease_seconds), 1
        )
        self.outcomes = Gather(self._count, 1)
        self.waiting = Waiting(self.database)

    def _callers(self, headers: Sequence[str]) -> list[Caller | Exception]:
        with self.database.read() as db:
            return self.gate(db, headers)

    def _count(self, told: Sequence[tuple[Outcome, str]]) -> list[Verdict | Exception | None]:
        """A fleet that starts tells of all its pulls at about the same time."""
        nodes, now = self.settings.quarantine_nodes, self.database.now()
        return count_all(self.database, told, nodes=nodes, now=now)

    def close(self) -> None:
        """Nobody asks any more."""
        self.lookups.close()
        self.callers.close()
        self.leases.close()
        self.outcomes.close()

    @property
    def storage_url(self) -> str:
        """Where nodes with credentials find the objects; empty when only this process can."""
        return "" if self.store.url.startswith(("file:", "memory:")) else self.store.url

    async def in_lookups(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `in_storage`, in threads of their own: a storage that hangs takes these, and not the
        others', and what they hold in memory is bounded."""
        return await to_thread.run_sync(partial(call, *args, **kwargs), limiter=self.lookup_reads)

    async def in_storage(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call that asks object storage, in one of the threads set apart for those."""
        return await to_thread.run_sync(
            partial(call, *args, **kwargs), limiter=self.storage_threads
        )


async def _context(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


ContextDep = Annotated[Context, Depends(_context)]
