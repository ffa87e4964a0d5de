"""Disks that fill up: a node's while it pulls and publishes, and the service's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.disk import filled, remount, small_disk
from support.fault_table import Table
from support.faults import Fleet, last_line
from support.site import Service, run
from support.small import add

SMALL = 600  # files of some bytes, of which each takes a whole block of the disk


@pytest.fixture
def fleet(service: Service, tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, {"AOTCACHE_URL": service.url})


@pytest.mark.parametrize(
    ("options", "what"),
    [(("size=2m",), "has no room for its blocks"), (("nr_inodes=200",), "has no inodes left")],
)
def test_a_nodes_disk_fills_up_during_a_pull(
    fleet: Fleet, table: Table, options: tuple[str, ...], what: str
) -> None:
    """All its bytes would have fitted: nobody could tell before."""
    tree = fleet.tree("tree", 100_000)
    for number in range(SMALL):
        add(tree.path, f"inductor_cache/ab/c{number}.py", b"# %d\n" % number)
    fleet.push(tree)
    node = fleet.fresh()
    with small_disk(node, *options):
        pulled = fleet.pull(tree, node, check=False)
        assert pulled.returncode == 1
        assert "the disk is full" in last_line(pulled)
        assert not list(node.rglob("staging/*"))
        remount(node, "size=64m", "nr_inodes=0")
        assert fleet.pull(tree, node).returncode == 0
    table.row(f"a node's disk {what} during a pull", pulled, fleet.seconds_to_normal(tree))


def test_a_nodes_disk_has_no_room(fleet: Fleet, table: Table) -> None:
    cache = fleet.cache("program", 3_000_000)
    fleet.push(cache)
    node = fleet.fresh()
    with small_disk(node, "size=2m"):
        pulled = fleet.pull(cache, node, check=False)
        assert (pulled.returncode, "nothing was written" in last_line(pulled)) == (1, True)
        with filled(node):
            ran = fleet.folder / "ran"
            started = fleet.exec(cache, node, 30, "touch", str(ran)).end()
            assert (started.returncode, ran.exists()) == (0, True)
            assert "cache program is not used" in started.stderr
        remount(node, "size=64m")
        assert fleet.pull(cache, node).returncode == 0
    seconds = fleet.seconds_to_normal(cache)
    table.row("a node's disk is smaller than the tree: `pull`", pulled, seconds)
    table.row("a node's disk is full: `exec`", started, seconds)


def test_a_nodes_disk_is_full_when_it_publishes(fleet: Fleet, table: Table) -> None:
    with small_disk(fleet.publisher, "size=16m"):
        tree = fleet.tree("tree")
        with filled(fleet.publisher):
            pushed = fleet.push(tree, check=False)
            assert pushed.returncode == 1
            assert "No space left on device" in last_line(pushed)
        fleet.push(tree)
        seconds = fleet.seconds_to_normal(tree)
    table.row("a publisher's disk is full: `push`", pushed, seconds)


def test_the_services_disk_is_full(tmp_path: Path, table: Table) -> None:
    """On its embedded default: index and objects on one disk."""
    data = tmp_path / "service"
    with small_disk(data, "size=8m"), run(data) as service:
        fleet = Fleet(tmp_path / "nodes", {"AOTCACHE_URL": service.url})
        tree, large = fleet.tree("tree"), fleet.tree("large", 12_000_000)
        fleet.push(tree)
        refused = fleet.push(large, check=False)
        assert (refused.returncode, "nothing more is stored" in last_line(refused)) == (1, True)
        with filled(data):
            # Not a byte is left, for the index neither.
            pulled = fleet.pull(tree)
            pushed = fleet.push(large, check=False)
            assert (pushed.returncode, "the index's disk is full" in last_line(pushed)) == (1, True)
        fleet.pull(tree)
        remount(data, "size=64m")
        fleet.push(large)
        seconds = fleet.seconds_to_normal(tree)
    table.row("the service's disk has no room for a pack: `push`", refused, seconds)
    table.row("the service's disk is full: `push`", pushed, seconds)
    table.row("the service's disk is full: `pull`", pulled, seconds)
