"""Clocks an hour off: of replicas of the service, and of a node."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from aotcache.errors import StorageUnavailableError, UnauthenticatedError
from aotcache.net.http import HttpClient
from aotcache.protocol.v1.leases import FREE, GRANTED, HELD, AskLease, new_holder
from aotcache.protocol.v1.lookup import Lookup
from aotcache.remote.index import Index
from aotcache.storage import http_store, presigned_store
from support.clock import clock
from support.fault_table import Table
from support.faults import Fleet, direct, last_line
from support.haproxy import balanced
from support.s3 import S3Server
from support.site import Service, aotcache, printed, run
from support.stored import HASH, PLATFORM, RANK

RIGHT, AHEAD, BEHIND = "right", "+1h", "-1h"
LEASE_SECONDS = 5
TO_SET = "set the clock of the machine that asks S3"


def replicas(stack: ExitStack, folder: Path, storage_url: str, **env: str) -> dict[str, Service]:
    """Three on one database and storage, by their clocks."""
    found = {}
    for by in (RIGHT, AHEAD, BEHIND):
        off = clock(by) if by != RIGHT else {}
        started = run(folder / by, storage_url=storage_url, env={**env, **off})
        found[by] = stack.enter_context(started)
    return found


def test_what_expires_does_so_by_the_databases_clock(
    postgres_url: str, tmp_path: Path, table: Table
) -> None:
    """Storage is a directory that they share, so that only what is in the database has a time."""
    storage = (tmp_path / "objects").as_uri()
    env = {
        "AOTCACHE_DATABASE_URL": postgres_url,
        "AOTCACHE_LEASE_SECONDS": str(LEASE_SECONDS),
    }
    with ExitStack() as stack:
        found = replicas(stack, tmp_path, storage, **env)
        url = stack.enter_context(balanced([one.url for one in found.values()], tmp_path))
        fleet = Fleet(tmp_path / "nodes", {"AOTCACHE_URL": url})
        # A session is opened at one, used at the next, and committed at another.
        for number in range(3):
            tree = fleet.tree(f"tree {number}", 100_000)
            pushed = fleet.push(tree)
        seconds = fleet.seconds_to_normal(tree)
        with ThreadPoolExecutor() as pool:
            list(pool.map(check_lease, *zip(*lease_checks(found), strict=True)))
        check_token(found, postgres_url)
    table.row("clocks of replicas an hour off: `push`", pushed, seconds)


def lease_checks(found: dict[str, Service]) -> list[tuple[Service, Service, str]]:
    """Where it is held, where it is asked for, and of which part."""
    return [
        (found[RIGHT], found[AHEAD], RANK),
        (found[AHEAD], found[BEHIND], "rank_1_0-d1"),
        (found[BEHIND], found[RIGHT], "rank_2_0-d2"),
    ]


def check_lease(here: Service, there: Service, part: str) -> None:
    lookup = Lookup(layout="vllm-aot", hash=HASH, platform=PLATFORM)

    def ask(at: Service, who: str, wait: float = 0.0) -> str:
        client = HttpClient(at.url)
        asked = AskLease(lookup=lookup, part=part, holder=who, wait=wait)
        try:
            return Index(client).lease(asked).state
        finally:
            client.close()

    holder = new_holder()
    assert ask(here, holder) == GRANTED
    assert ask(there, "") == HELD
    assert ask(there, holder) == GRANTED  # it is heard of, wherever it says so
    # Not heard of any more: over within the time of a lease, and not an hour later.
    assert ask(there, "", 4 * LEASE_SECONDS) == FREE
    assert ask(here, "") == FREE


def check_token(found: dict[str, Service], database_url: str) -> None:
    """One that lasts for half an hour does so everywhere."""
    words = ["token", "create", "--data-dir", str(found[RIGHT].data), "--scope", "read", "--json"]
    words += ["--database-url", database_url, "--expires", "30m"]
    token = printed(aotcache(*words))["token"]
    for one in found.values():
        client, stranger = HttpClient(one.url, token), HttpClient(one.url)
        assert Index(client).trees().trees
        with pytest.raises(UnauthenticatedError):
            Index(stranger).trees()
        client.close()
        stranger.close()


def test_s3_refuses_replicas(
    seaweedfs: S3Server, postgres_url: str, tmp_path: Path, table: Table
) -> None:
    """Nodes are told why, and by another replica they are served."""
    env = {**seaweedfs.env(), "AOTCACHE_DATABASE_URL": postgres_url}
    with ExitStack() as stack:
        found = replicas(stack, tmp_path, seaweedfs.fresh_url(), **env)
        fleet = Fleet(tmp_path / "nodes", {"AOTCACHE_URL": found[RIGHT].url})
        tree, new = fleet.tree("tree", 100_000), fleet.tree("new", 100_000)
        fleet.push(tree)
        for by in (AHEAD, BEHIND):
            wrong = {"AOTCACHE_URL": found[by].url}
            pulled = fleet.pull(tree, check=False, **wrong)
            pushed = fleet.push(new, check=False, **wrong)
            for done in (pulled, pushed):
                assert (done.returncode, TO_SET in last_line(done)) == (1, True), done.stderr
        check_urls(found[RIGHT], found[BEHIND])
        fleet.push(new)
        seconds = fleet.seconds_to_normal(tree)
    table.row("a replica's clock an hour off, S3: `pull` by it", pulled, seconds)
    table.row("a replica's clock an hour off, S3: `push` by it", pushed, seconds)


def check_urls(right: Service, wrong: Service) -> None:
    """Who knows already what to fetch gets URLs there that are over. (Those of the future
    SeaweedFS takes.)"""
    clients = HttpClient(right.url), HttpClient(wrong.url)
    pack = next(iter(http_store(clients[0]).list("default/packs/"))).key
    store = presigned_store(clients[1], required=True)
    with pytest.raises(StorageUnavailableError, match=r"403.* check the service's clock"):
        store.get(pack)
    store.close()
    for client in clients:
        client.close()


def test_a_nodes_clock_is_off(seaweedfs: S3Server, tmp_path: Path, table: Table) -> None:
    """It needs none where the service signs. S3 refuses what it signs itself."""
    storage = seaweedfs.fresh_url()
    with run(tmp_path / "service", storage_url=storage, env=seaweedfs.env()) as service:
        fleet = Fleet(tmp_path / "nodes", {"AOTCACHE_URL": service.url})
        tree = fleet.tree("tree", 100_000)
        for by in (AHEAD, BEHIND):
            off = clock(by)
            fleet.push(tree, **off)
            pulled = fleet.pull(tree, **off)
            refused = fleet.pull(tree, check=False, **off, **direct(seaweedfs, storage))
            assert (refused.returncode, TO_SET in last_line(refused)) == (1, True)
        seconds = fleet.seconds_to_normal(tree)
    table.row("a node's clock an hour off: `pull` by URLs", pulled, seconds)
    table.row("a node's clock an hour off: `pull` with credentials", refused, seconds)
