"""Replicas of the service killed in the middle of requests, behind a load balancer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.fault_table import Table
from support.faults import Fleet, Traffic
from support.haproxy import balanced
from support.process import free_ports
from support.s3 import S3Server
from support.site import Service, run
from support.waiters import waiters

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
    with waiters(replicas.url) as waiting:
        replicas.both[0].kill()
        time.sleep(LEASE_SECONDS)
        waiting.check_they_wait()
        seconds = waiting.seconds_to_end()
    table.row("a replica killed under nodes that wait for a lease", "they wait on", seconds)
