"""Object storage and the service on another host, and the cable to it: slow, and cut without a word
while bytes are under way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fault_table import Table
from support.faults import Fleet, direct, ended
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
    told = aotcache("token", "create", "--data-dir", str(folder), "--scope", "admin", "--json")
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
    started = ended(fleet.exec(cache, root, 1, "sh", "-c", program))
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
    """While bytes are under way, both ways, to storage and through a service, and before."""
    tree, cache, new = (
        fleet.tree("tree", BIG),
        fleet.cache("program", BIG),
        fleet.tree("new", BIG),
    )
    for one in (tree, cache):
        fleet.push(one)
    far_cache = far_fleet.cache("program", BIG)
    far_fleet.push(far_cache)
    own = direct(storage, service.storage_url)
    near.slow(SLOW)
    pulled, pushed = near.near.received(), near.far.received()
    roots = [fleet.fresh() for _ in range(4)]
    failing = {
        "a `pull` by URLs": fleet.start(*fleet.words_of_pull(tree, roots[0])),
        "a `pull` with credentials": fleet.start(*fleet.words_of_pull(tree, roots[1]), **own),
        "a `pull` through a service": far_fleet.start(*far_fleet.words_of_pull(far_cache, roots[2])),
        "a `push`": fleet.start(*fleet.words_of_push(new)),
    }
    starting = fleet.exec(cache, roots[3], 4, "touch", str(tmp := roots[3].with_suffix(".ran")))
    while (near.near.received() - pulled < BIG / 4) or (near.far.received() - pushed < BIG / 8):
        assert not any(process.poll() for process in failing.values())
        time.sleep(0.02)
    near.cut()
    begin = time.monotonic()
    for number, one in enumerate((fleet, far_fleet)):
        ran = roots[3].with_suffix(f".ran{number}")
        late = ended(one.exec(one.cache("program", BIG), one.fresh(), 2, "touch", str(ran)))
        print(time.monotonic() - begin, late.stderr)
        assert late.returncode == 0
        assert ran.exists()
    for what, process in failing.items():
        done = ended(process)
        print(time.monotonic() - begin, what, done.stderr)
    done = ended(starting)
    near.mend()
    seconds = fleet.seconds_to_normal(tree)
    print(seconds)
    fleet.push(new)
    print(far_fleet.seconds_to_normal(far_cache))
    fleet.check_nothing_lost()
    assert 0
