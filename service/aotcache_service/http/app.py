"""The app factory. The app starts at once, however much is stored: nothing is scanned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi_offline import FastAPIOffline

from aotcache import __version__
from aotcache.storage import open_store
from aotcache.storage.base import DirectStore

from ..index.database import Database
from ..index.misses import MissGroups
from ..index.totals import Totals
from ..index.usage import UsageCounter
from ..ops.presign import open_presigner
from ..settings import ServiceSettings
from . import errors, health, metrics
from .access import Gate
from .bodies import BoundedBodies
from .collector import Collector
from .context import Context
from .lean import ShortCut
from .limits import RateLimit
from .observe import Observed
from .pages import actions, overview, sign_in, tree
from .pages import trees as pages_trees
from .v1 import (
    audit,
    collect,
    explain,
    keys,
    leases,
    lookup,
    objects,
    outcomes,
    presign,
    publish,
    quarantine,
    recipes,
    stats,
    trees,
)

DESCRIPTION = """Which compiled torch.compile and vLLM trees are stored, and how to fetch them.

Every answer that is not a 2xx has a `Problem` as its body; a lookup
that finds nothing has a `Miss`.
"""


def create_app(settings: ServiceSettings, store: DirectStore | None = None) -> Observed:
    """The service of these settings; `store`: another one than at `settings.storage_url`.

    A store that is given stays the caller's to close. Raises UsageError for a URL of neither a
    store nor a database.
    """
    database = Database(settings.database_url)
    opened = open_store(settings.storage_url) if store is None else store
    context = Context(
        settings=settings,
        database=database,
        store=opened,
        usage=UsageCounter(database),
        gate=Gate(
            RateLimit(settings.token_rate), database.now, closed=not settings.is_local
        ).callers,
        collector=Collector(settings, database, opened),
        totals=Totals(database),
        misses=MissGroups(database),
        presigner=open_presigner(opened.url, settings.s3_public_endpoint, settings.presign_seconds),
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(database.migrate)
        context.usage.start()
        context.collector.start()
        context.ready = True
        try:
            yield
        finally:
            context.ready = False
            context.close()
            await run_in_threadpool(context.collector.close)
            await run_in_threadpool(context.usage.close)
            if store is None:
                await run_in_threadpool(context.store.close)
            database.close()

    # Scripts of the page at /docs come from here, as clusters are often cut off from the internet.
    app = FastAPIOffline(
        title="aotcache",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.context = context
    errors.install(app)
    app.add_middleware(BoundedBodies, callers=context.callers)
    app.include_router(health.router)
    app.include_router(metrics.router)
    calls = (lookup, recipes, trees, publish, objects, presign, outcomes, quarantine, keys)
    for routes in (*calls, leases, collect, explain, stats, audit):
        app.include_router(routes.router, prefix="/v1")
    for pages in (overview, pages_trees, tree, actions, sign_in):
        app.include_router(pages.router)
    short = {"/v1/lookup": lookup.lookup}
    return Observed(ShortCut(app, context, short), context, frozenset(short))
