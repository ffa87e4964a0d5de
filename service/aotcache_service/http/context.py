"""What every route works with."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from aotcache.storage.base import ObjectStore

from ..index.database import Database
from ..index.usage import UsageCounter
from ..settings import ServiceSettings

# Uploads that are held in memory at the same time; the others wait with their bytes unsent.
UPLOADS = 8


@dataclass(slots=True, kw_only=True)
class Context:
    """ready: the database's tables are of this version."""

    settings: ServiceSettings
    database: Database
    store: ObjectStore
    usage: UsageCounter
    ready: bool = False
    uploads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(UPLOADS))

    @property
    def storage_url(self) -> str:
        """Where nodes with credentials find the objects; empty when only this process can."""
        return "" if self.store.url.startswith(("file:", "memory:")) else self.store.url


def now() -> int:
    return int(time.time())


def _context(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


ContextDep = Annotated[Context, Depends(_context)]
