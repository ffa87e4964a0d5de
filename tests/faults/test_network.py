"""Object storage and the service on another host, and the cable to it: slow, and cut without a word
while bytes are under way."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fault_table import Table
from support.faults import Fleet, direct, last_line
from support.netns import Network, two_hosts
from support.s3 import S3Server
from support.seaweedfs import run_seaweedfs
from support.site import Service, aotcache, printed, run

BIG = 2_000_000
SLOW = "4mbit"  # BIG takes four seconds


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with two_hosts() as network:
        yield network


@pytest.fixture(scope="module")
def storage(network: Network) -> Iterator[S3Server]:
    running = run_seaweedfs(network.far.address)
    with network.far.inside():
        server = running.__enter__()
    yield server
    running.__exit__(None, None, None)


@pytest.fixture
def near(network: Network) -> Iterator[Network]:
    """The test, and all that it starts, run on the near host."""
    with network.near.inside():
        yield network
        network.mend()


@pytest.fixture
def service(near: Network, storage: S3Server, tmp_path: Path) -> Iterator[Service]:  # noqa: ARG001
    """On the near host, with its storage on the far one."""
    url = storage.fresh_url()
    with run(tmp_path / "service", storage_url=url, env=storage.env()) as service:
        yield service


@pytest.fixture
def fleet(service: Service, tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, {"AOTCACHE_URL": service.url})


@pytest.fixture
def far_fleet(network: Network, tmp_path: Path) -> Iterator[Fleet]:
    """Of a service that is on the far host, with all that it has."""
    folder = tmp_path / "far"
    told = aotcache(
        "token",
        "create",
        "--data-dir",
        str(folder),
        "--scope",
        "admin",
        "--namespace",
        "*",
        "--json",
    )
    far = Service(folder, env={"AOTCACHE_HOST": network.far.address})
    with network.far.inside():
        far.start()
    try:
        token = printed(told)["token"]
        yield Fleet(tmp_path / "far_nodes", {"AOTCACHE_URL": far.url, "AOTCACHE_TOKEN": token})
    finally:
        far.stop()


def test_storage_is_slow(near: Network, fleet: Fleet, table: Table) -> None:
    cache = fleet.cache("program", BIG)
    fleet.push(cache)
    near.slow(SLOW)
    root = fleet.fresh()
    arrived = Path(cache.path.replace(str(fleet.publisher), str(root)), "zz/weights.py")
    program = f"test ! -e {arrived} || exit 9; until test -e {arrived}; do sleep 0.1; done; exit 7"
    started = fleet.exec(cache, root, 1, "sh", "-c", program).end()
    assert started.returncode == 7, started.stderr
    assert "took over 1 s to pull (--deadline): starting without it" in started.stderr
    fleet.check_node(cache, root, 0)
    pulled, pushed = fleet.pull(cache), fleet.push(fleet.tree("slow", BIG))
    near.mend()
    seconds = fleet.seconds_to_normal(cache)
    fault = f"object storage at {SLOW}"
    seen = "started at its deadline without the cache, which came beside the program"
    table.row(f"{fault}: `exec`", seen, seconds)
    table.row(f"{fault}: `pull`", pulled, seconds)
    table.row(f"{fault}: `push`", pushed, seconds)


def test_the_cable_is_cut(
    near: Network,
    service: Service,
    storage: S3Server,
    fleet: Fleet,
    far_fleet: Fleet,
    table: Table,
) -> None:
    """While bytes are under way, to and from storage and through a service, and before."""
    tree, new, cache = fleet.tree("tree", BIG), fleet.tree("new", BIG), fleet.cache("program", BIG)
    far_cache = far_fleet.cache("program", BIG)
    for one in (tree, cache):
        fleet.push(one)
    far_fleet.push(far_cache)
    own = direct(storage, service.storage_url)
    roots = [fleet.fresh() for _ in range(4)]
    near.slow("1mbit")  # so that none of them comes to its end
    running = {
        "`pull` by URLs": fleet.start(*fleet.words_of_pull(tree, roots[0])),
        "`pull` with credentials": fleet.start(*fleet.words_of_pull(tree, roots[1]), **own),
        "`pull` through the service": far_fleet.start(
            *far_fleet.words_of_pull(far_cache, roots[2])
        ),
        "`push`": fleet.start(*fleet.words_of_push(new)),
    }
    ran = fleet.folder / "ran"
    started = fleet.exec(cache, roots[3], 4, "touch", str(ran))
    while not all(one.said("fetching") or one.said("packing") for one in running.values()):
        time.sleep(0.02)
    pulled, pushed = near.near.received(), near.far.received()
    while near.near.received() - pulled < 100_000 or near.far.received() - pushed < 100_000:
        time.sleep(0.02)
    near.cut()
    rows = {"`exec`": started.end()}
    assert (rows["`exec`"].returncode, ran.exists()) == (0, True)
    for where, one in (("storage", fleet), ("the service", far_fleet)):
        ran = one.folder / "late"
        late = one.exec(one.cache("program", BIG), one.fresh(), 2, "touch", str(ran)).end()
        assert (late.returncode, ran.exists()) == (0, True)
        assert "took over 2 s to pull (--deadline): starting without it" in last_line(late)
        rows[f"`exec` later, {where} being away"] = late
    # A program that has ended waits for none of the threads that hear nothing.
    assert not any(one.over for one in running.values())
    for what, one in running.items():
        rows[what] = one.end()
        assert rows[what].returncode == 1
        assert re.search("no (whole )?answer from http://10", last_line(rows[what])), rows[what]
    for one, root in zip((tree, tree, far_cache), roots, strict=False):
        fleet.check_node(one, root, 1)
    near.mend()
    seconds = fleet.seconds_to_normal(tree)
    fleet.push(new)
    fleet.check_nothing_lost()
    far_seconds = far_fleet.seconds_to_normal(far_cache)
    for what, done in rows.items():
        is_far = "the service" in what
        table.row(f"the cable is cut: {what}", done, far_seconds if is_far else seconds)
