"""Replicas of the service killed in the middle of requests, behind a load balancer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from aotcache.net.http import HttpClient
from aotcache.protocol.v1.leases import FREE, GRANTED, Lease
from aotcache.protocol.v1.lookup import Lookup
from aotcache.remote.index import Index
from aotcache.sync.leases import Leases
from support.fault_table import Table
from support.faults import Fleet, Traffic
from support.haproxy import balanced
from support.process import free_ports
from support.s3 import S3Server
from support.site import Service, run
from support.stored import HASH, PLATFORM, RANK

LEASE_SECONDS = 8


@dataclass
class Replicas:
    url: str
    both: list[Service]


@pytest.fixture
def replicas(seaweedfs: S3Server, postgres_url: str, tmp_path: Path) -> Iterator[Replicas]:
    """Two services on one PostgreSQL and one S3, behind haproxy."""
    settings = {**seaweedfs.env(), "AOTCACHE_DATABASE_URL": postgres_url}
    settings["AOTCACHE_LEASE_SECONDS"] = str(LEASE_SECONDS)
    storage = seaweedfs.fresh_url()
    with ExitStack() as stack:
        both = [
            stack.enter_context(
                run(tmp_path / f"replica{port}", storage_url=storage, env=settings, port=port)
            )
            for port in free_ports(2)
        ]
        url = stack.enter_context(balanced([one.url for one in both], tmp_path))
        yield Replicas(url, both)


def test_replicas_are_killed(replicas: Replicas, tmp_path: Path, table: Table) -> None:
    """One after the other, under nodes that pull and publish: these go on with the other one.
    All bytes pass them, so that there are many requests to be killed in."""
    fleet = Fleet(tmp_path, {"AOTCACHE_URL": replicas.url, "AOTCACHE_TRANSFER": "proxy"})
    tree = fleet.tree("tree")
    fleet.push(tree)
    with Traffic(fleet, tree) as traffic:
        for replica in replicas.both:
            traffic.wait(2)
            replica.kill()
            traffic.wait(4)
            replica.start()
    for done in traffic.done:
        assert done.returncode == 0, done.stderr
    seconds = fleet.seconds_to_normal(tree)
    table.row("replicas killed under `pull` and `push`", traffic.done[-1], seconds)


def test_a_replica_is_killed_under_who_waits_for_a_lease(replicas: Replicas, table: Table) -> None:
    """Its holder keeps it, and the others wait on, with the replica that is left."""
    lookup = Lookup(layout="vllm-aot", hash=HASH, platform=PLATFORM)
    clients = [HttpClient(replicas.url) for _ in range(5)]
    holder, *others = (Leases(Index(client)) for client in clients)
    told: list[Lease] = []
    with ThreadPoolExecutor() as pool:
        assert holder.turn(lookup, RANK, budget=60, hold=True)[0] == GRANTED
        waiting = [
            pool.submit(one.turn, lookup, RANK, budget=60, hold=False, waiting=told.append)
            for one in others
        ]
        while len(told) < len(others):
            assert not any(future.done() for future in waiting)
            time.sleep(0.02)
        replicas.both[0].kill()
        time.sleep(LEASE_SECONDS)
        assert not any(future.done() for future in waiting)
        holder.let_go(lookup, RANK)
        begin = time.monotonic()
        # Nobody waits any more, and nobody has an error.
        assert {future.result() for future in waiting} == {(FREE, "")}
    seconds = time.monotonic() - begin
    for client in clients:
        client.close()
    table.row("a replica killed under nodes that wait for a lease", "they wait on", seconds)
