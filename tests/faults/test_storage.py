"""Object storage that fails now and then, fails always, or is full."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.disk import remount, small_disk
from support.fault_table import Table
from support.faults import AGAIN_SECONDS, Fleet, direct, last_line
from support.faulty_s3 import KINDS, SLOW_DOWN, FaultyS3, faulty
from support.s3 import S3Server
from support.seaweedfs import run_seaweedfs
from support.site import Service, run

WAYS = ("presigned", "direct", "proxy")


@pytest.fixture
def s3(seaweedfs: S3Server) -> Iterator[FaultyS3]:
    with faulty(seaweedfs) as proxy:
        yield proxy


@pytest.fixture
def service(s3: FaultyS3, tmp_path: Path) -> Iterator[Service]:
    url, env = s3.server.fresh_url(), s3.server.env()
    with run(tmp_path / "service", storage_url=url, env=env) as service:
        yield service


@pytest.fixture
def fleet(service: Service, tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, {"AOTCACHE_URL": service.url})


def way_of(way: str, s3: S3Server, service: Service) -> dict[str, str]:
    own = direct(s3, service.storage_url) if way == "direct" else {}
    return {**own, "AOTCACHE_TRANSFER": way}


def test_every_tenth_request_fails(
    s3: FaultyS3, service: Service, fleet: Fleet, table: Table
) -> None:
    """In each way that requests of a large store do, and in each way that bytes travel: nobody
    notices."""
    trees = {way: fleet.tree(way) for way in WAYS}
    s3.share = 0.1
    for way in WAYS:
        env = way_of(way, s3.server, service)
        pushed = fleet.push(trees[way], **env)
        pulled = fleet.pull(trees[way], **env)
        while not set(KINDS) <= set(s3.failed):
            fleet.pull(trees[way], **env)
            assert s3.asked < 1000, s3.failed
        s3.failed.clear()
    s3.share = 0.0
    seconds = fleet.seconds_to_normal(trees["direct"])
    table.row("10 % of storage's requests fail: `pull`", pulled, seconds)
    table.row("10 % of storage's requests fail: `push`", pushed, seconds)


def test_every_request_fails(s3: FaultyS3, service: Service, fleet: Fleet, table: Table) -> None:
    tree, new, cache = fleet.tree("tree"), fleet.tree("new"), fleet.cache("program")
    for one in (tree, cache):
        fleet.push(one)
    s3.kinds, s3.share = (SLOW_DOWN,), 1.0
    for way in WAYS:
        env = way_of(way, s3.server, service)
        pulled, pushed = fleet.pull(tree, check=False, **env), fleet.push(new, check=False, **env)
        for done in (pulled, pushed):
            assert (done.returncode, "S3 answered 503 SlowDown" in last_line(done)) == (1, True)
    ran = fleet.folder / "ran"
    started = fleet.exec(cache, fleet.fresh(), 30, "touch", str(ran)).end()
    assert (started.returncode, ran.exists()) == (0, True)
    assert "cache program is not used: " in last_line(started)
    watcher = fleet.start("watch", "--cache-root", str(fleet.publisher), "--quiet", "0.5")
    watcher.wait_for("S3 answered 503 SlowDown")
    s3.share = 0.0
    seconds = fleet.seconds_to_normal(tree)
    fleet.trees.append(new)
    until_published = seconds + fleet.seconds_to_normal(new)
    watcher.process.terminate()
    assert watcher.end().returncode == 0
    table.row("object storage answers 503: `pull`", pulled, seconds)
    table.row("object storage answers 503: `push`", pushed, seconds)
    table.row("object storage answers 503: `exec`", started, seconds)
    said = "not published, again in 5 s; then it was, by itself"
    table.row("object storage answers 503: `watch`", said, until_published)


def test_storage_is_full(tmp_path: Path, table: Table) -> None:
    """S3 on a small disk, which somebody then makes larger."""
    disk = tmp_path / "disk"
    with ExitStack() as stack:
        stack.enter_context(small_disk(disk, "size=16m"))
        s3 = stack.enter_context(run_seaweedfs(data=disk))
        started = run(tmp_path / "service", storage_url=s3.fresh_url(), env=s3.env())
        service = stack.enter_context(started)
        fleet = Fleet(tmp_path, {"AOTCACHE_URL": service.url})
        tree, large = fleet.tree("tree"), fleet.tree("large", 30_000_000)
        fleet.push(tree)
        for way in WAYS:
            env = way_of(way, s3, service)
            pushed = fleet.push(large, check=False, **env)
            assert pushed.returncode == 1
            assert re.search("S3 answered 50.* or full: try again later", last_line(pushed))
        fleet.pull(tree)
        remount(disk, "size=128m")
        begin = time.monotonic()
        while (done := fleet.push(large, check=False)).returncode:
            assert time.monotonic() - begin < AGAIN_SECONDS, done.stderr
        fleet.seconds_to_normal(tree)
    table.row("object storage is full: `push`", pushed, time.monotonic() - begin)
