"""Nodes that wait for a lease while a part of the service is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from aotcache.net.http import HttpClient
from aotcache.protocol.v1.leases import FREE, GRANTED, Lease
from aotcache.protocol.v1.lookup import Lookup
from aotcache.remote.index import Index
from aotcache.sync.leases import Leases
from support.stored import HASH, PLATFORM, RANK

WAIT = 120.0  # AOTCACHE_WAIT


@dataclass
class Waiters:
    """One has the lease, the others wait for it."""

    holder: Leases
    lookup: Lookup
    waiting: list[Future[tuple[str, str]]]

    def check_they_wait(self) -> None:
        assert not any(future.done() for future in self.waiting)

    def seconds_to_end(self) -> float:
        """The lease is let go: nobody waits any more, and nobody has an error."""
        self.holder.let_go(self.lookup, RANK)
        begin = time.monotonic()
        assert {future.result(WAIT) for future in self.waiting} == {(FREE, "")}
        return time.monotonic() - begin


@contextmanager
def waiters(url: str, count: int = 4) -> Iterator[Waiters]:
    lookup = Lookup(layout="vllm-aot", hash=HASH, platform=PLATFORM)
    told: list[Lease] = []
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(count))
        clients = [HttpClient(url) for _ in range(count + 1)]
        for client in clients:
            stack.callback(client.close)
        holder, *others = (Leases(Index(client)) for client in clients)
        assert holder.turn(lookup, RANK, budget=WAIT, hold=True)[0] == GRANTED
        found = Waiters(
            holder,
            lookup,
            [
                pool.submit(one.turn, lookup, RANK, budget=WAIT, hold=False, waiting=told.append)
                for one in others
            ],
        )
        while len(told) < count:
            found.check_they_wait()
            time.sleep(0.02)
        yield found
