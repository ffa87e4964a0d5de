"""Clocks an hour off: of one replica of two, and of a node."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from aotcache.errors import UnauthenticatedError
from aotcache.net.http import HttpClient
from aotcache.protocol.v1.leases import FREE, GRANTED, HELD, AskLease, new_holder
from aotcache.protocol.v1.lookup import Lookup
from aotcache.remote.index import Index
from support.clock import clock
from support.fault_table import Table
from support.faults import Fleet, direct, last_line
from support.haproxy import balanced
from support.s3 import S3Server
from support.site import Service, aotcache, printed, run
from support.stored import HASH, PLATFORM, RANK

LEASE_SECONDS = 4
OFF = pytest.mark.parametrize("by", ["+1h", "-1h"])


@dataclass
class Replicas:
    """right, wrong: by their clocks. url: of both, by turns."""

    right: Service
    wrong: Service
    url: str


def replicas_of(
    stack: ExitStack,
    folder: Path,
    database_url: str,
    storage_url: str,
    by: str,
    env: dict[str, str],
) -> Replicas:
    env = {**env, "AOTCACHE_DATABASE_URL": database_url}
    env["AOTCACHE_LEASE_SECONDS"] = str(LEASE_SECONDS)
    right, wrong = (
        stack.enter_context(run(folder / name, storage_url=storage_url, env={**env, **off}))
        for name, off in (("right", {}), ("wrong", clock(by)))
    )
    url = stack.enter_context(balanced([right.url, wrong.url], folder))
    return Replicas(right, wrong, url)


@OFF
def test_what_expires_does_so_by_the_databases_clock(
    postgres_url: str, tmp_path: Path, table: Table, by: str
) -> None:
    """Storage is a directory that both share, so that only what lies in the database has a time."""
    storage = (tmp_path / "objects").as_uri()
    with ExitStack() as stack:
        both = replicas_of(stack, tmp_path, postgres_url, storage, by, {})
        fleet = Fleet(tmp_path / "nodes", {"AOTCACHE_URL": both.url})
        # A session is opened at one, its packs are put at the other, and it is committed at either.
        for number in range(3):
            tree = fleet.tree(f"tree {number}", 100_000)
            pushed = fleet.push(tree)
        seconds = fleet.seconds_to_normal(tree)
        check_leases(both)
        check_tokens(both, postgres_url, tmp_path)
    table.row(f"a replica's clock {by}: `push`", pushed, seconds)


def check_leases(both: Replicas) -> None:
    def ask(at: Service, who: str, wait: float = 0.0) -> str:
        lookup = Lookup(layout="vllm-aot", hash=HASH, platform=PLATFORM)
        asked = AskLease(lookup=lookup, part=RANK, holder=who, wait=wait)
        client = HttpClient(at.url)
        try:
            return Index(client).lease(asked).state
        finally:
            client.close()

    for holders, others in ((both.right, both.wrong), (both.wrong, both.right)):
        holder = new_holder()
        assert ask(holders, holder) == GRANTED
        assert ask(others, "") == HELD
        assert ask(others, holder) == GRANTED  # its heartbeat counts at either
        # Not heard of any more: it ends within the time of a lease, for both.
        assert ask(others, "", 4 * LEASE_SECONDS) == FREE
        assert ask(holders, "") == FREE


def check_tokens(both: Replicas, database_url: str, folder: Path) -> None:
    """One that lasts for half an hour does so at both."""
    words = ["token", "create", "--data-dir", str(folder / "right"), "--scope", "read", "--json"]
    words += ["--database-url", database_url, "--expires", "30m"]
    client = HttpClient(both.wrong.url, printed(aotcache(*words))["token"])
    assert Index(client).trees().trees
    client.close()
    client = HttpClient(both.wrong.url)
    with pytest.raises(UnauthenticatedError):
        Index(client).trees()
    client.close()


@OFF
def test_s3_refuses_a_replica(
    seaweedfs: S3Server, postgres_url: str, tmp_path: Path, table: Table, by: str
) -> None:
    """Nodes are told why, and the other replica serves them."""
    storage = seaweedfs.fresh_url()
    with ExitStack() as stack:
        both = replicas_of(stack, tmp_path, postgres_url, storage, by, seaweedfs.env())
        fleet = Fleet(tmp_path / "nodes", {"AOTCACHE_URL": both.right.url})
        tree, new = fleet.tree("tree", 100_000), fleet.tree("new", 100_000)
        fleet.push(tree)
        at_wrong = {"AOTCACHE_URL": both.wrong.url}
        for done in (
            pulled := fleet.pull(tree, check=False, **at_wrong),
            pushed := fleet.push(new, check=False, **at_wrong),
        ):
            assert done.returncode == 1
            assert "RequestTimeTooSkewed" in last_line(done)
            assert "set the clock of the machine that asks S3" in last_line(done)
        # URLs of its own are no better: whoever has the manifests from elsewhere is told, too.
        # seconds = fleet.seconds_to_normal(tree)
        for _ in range(4):
            d = fleet.pull(tree, check=False, AOTCACHE_URL=both.url)
            print(d.returncode, last_line(d))
            d = fleet.push(new, check=False, AOTCACHE_URL=both.url)
            print(d.returncode, last_line(d))
        assert 0


@OFF
def test_a_nodes_clock_is_off(seaweedfs: S3Server, tmp_path: Path, table: Table, by: str) -> None:
    """It needs none where the service signs; S3 refuses what it signs itself."""
    storage = seaweedfs.fresh_url()
    with run(tmp_path / "service", storage_url=storage, env=seaweedfs.env()) as service:
        fleet = Fleet(tmp_path / "nodes", {"AOTCACHE_URL": service.url})
        tree = fleet.tree("tree", 100_000)
        fleet.push(tree, **clock(by))
        pulled = fleet.pull(tree, **clock(by))
        refused = fleet.pull(tree, check=False, **clock(by), **direct(seaweedfs, storage))
        assert refused.returncode == 1
        assert "set the clock of the machine that asks S3" in last_line(refused)
        seconds = fleet.seconds_to_normal(tree)
    table.row(f"a node's clock {by}: `pull` by URLs", pulled, seconds)
    table.row(f"a node's clock {by}: `pull` with credentials", refused, seconds)
