"""kill -9 of publisher, puller and service before every storage and disk step: nothing half
visible, nothing lost, the next run completes."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from aotcache.core.trust import TrustPolicy
from aotcache.errors import StorageUnavailableError, UnavailableError
from aotcache.net.http import HttpClient
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.v1.lookup import Lookup, Miss
from aotcache.remote.index import Index
from aotcache.storage import http_store
from aotcache.sync.pull import Pulled, pull
from aotcache.sync.site import Site
from support.fault_table import Table
from support.killing import killed_before, run_service
from support.site import Service, publish_tree, pull_tree
from support.trees import H100, contents, copy_kernels, make_ranks


@pytest.fixture(scope="module")
def few(triton_kernels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the kernels: the number of steps is what takes the time."""
    home = tmp_path_factory.mktemp("few")
    copy_kernels(triton_kernels, home / "all")
    kept = home / "kept"
    kept.mkdir()
    for kernel in sorted((home / "all").iterdir())[:2]:
        kernel.rename(kept / kernel.name)
        group = next((kept / kernel.name).glob("__grp__*.json"))
        group.write_text(group.read_text().replace(str(home / "all"), str(kept)))
    return kept


@pytest.fixture
def tree(tmp_path: Path, few: Path) -> FoundTree:
    (tmp_path / "none").mkdir()
    return make_ranks(
        tmp_path / "node", few, tmp_path / "none", range(2), world=2, model_bytes=100_000
    )


def _whole_or_nothing(found: Pulled | Miss, tree: FoundTree) -> None:
    """What a reader sees is a Miss, or parts that are whole."""
    if isinstance(found, Pulled):
        there, expected = contents(found.path), contents(tree.path)
        assert set(there) <= set(expected)
        for part in found.parts:
            assert part.files == part.installed


def _equal(found: Pulled | Miss, tree: FoundTree) -> None:
    assert isinstance(found, Pulled), found
    assert found.missing == ()
    there, expected = contents(found.path), contents(tree.path)
    assert set(there) == set(expected)
    assert all(there[p] == expected[p] for p in expected if "__grp__" not in p)


def test_a_publisher_that_is_killed(
    service: Service, tree: FoundTree, tmp_path: Path, table: Table
) -> None:
    packs, longest = None, 0.0
    for last in itertools.count(1):
        namespace = f"kill-{last}"
        node = tmp_path / f"node{last}"
        copy = _copy(tree, tmp_path / "node", node)
        below = [str(node)]

        def operation(tree: FoundTree = copy, namespace: str = namespace) -> None:
            publish_tree(service.site(), tree, namespace=namespace)

        killed = killed_before(last, below, operation)
        site = service.site()
        _whole_or_nothing(_pull(service, copy, namespace, tmp_path / f"early{last}"), copy)
        begin = time.monotonic()
        publish_tree(site, copy, namespace=namespace)
        longest = max(longest, time.monotonic() - begin)
        _equal(_pull(service, copy, namespace, tmp_path / f"late{last}"), copy)
        stored = [found.key for found in site.store.list(f"{namespace}/packs/")]
        packs = packs or len(stored)
        assert len(stored) == packs, f"killed before step {last}: a pack was uploaded twice"
        if not killed:
            break
    assert last > 20
    steps = f"a publisher killed before each of its {last - 1} steps"
    table.row(steps, "a miss, or parts that are whole", longest)


def _pull(service: Service, tree: FoundTree, namespace: str, root: Path) -> Pulled | Miss:
    lookup = Lookup(layout=tree.layout, hash=tree.hash, platform=H100, namespace=namespace)
    return pull(service.site(), lookup, tree_path(str(root), tree.layout, tree.hash))


def _copy(tree: FoundTree, old: Path, new: Path) -> FoundTree:
    """The same cache root at another place, with the paths that its engine would have written."""
    shutil.copytree(old, new)
    for group in new.rglob("__grp__*.json"):
        group.write_text(group.read_text().replace(str(old), str(new)))
    return FoundTree(tree.layout, tree.hash, tree.path.replace(str(old), str(new)))


def test_a_puller_that_is_killed(
    service: Service, tree: FoundTree, tmp_path: Path, table: Table
) -> None:
    longest = 0.0
    publish_tree(service.site(), tree)
    expected = contents(tree.path)
    for last in itertools.count(1):
        root = tmp_path / f"root{last}"

        def operation(root: Path = root) -> None:
            pull_tree(service.site(), tree, H100, root)

        killed = killed_before(last, [str(root)], operation)
        place = root / Path(tree.path).relative_to(tmp_path / "node")
        there = contents(place) if place.exists() else {}
        for path, data in there.items():
            assert "__grp__" in path or data == expected[path], f"step {last}: {path} is torn"
        _kernels_are_whole(place, expected)
        if any(path.endswith("/model") for path in there):
            shared = {path for path in expected if path.startswith("inductor_cache/")}
            assert shared <= set(there), f"step {last}: a model before what it leads to"
        begin = time.monotonic()
        _equal(pull_tree(service.site(), tree, H100, root), tree)
        longest = max(longest, time.monotonic() - begin)
        assert not (place.parent / ".aotcache/staging" / tree.hash).exists()
        if not killed:
            break
    assert last > 30
    steps = f"a puller killed before each of its {last - 1} steps"
    table.row(steps, "files and kernels that are whole, a model last", longest)


def _kernels_are_whole(place: Path, expected: dict[str, bytes]) -> None:
    for kernel in place.glob("inductor_cache/triton/*/*"):
        there = {str(path.relative_to(place)) for path in kernel.iterdir()}
        prefix = f"{kernel.relative_to(place)}/"
        assert there == {path for path in expected if path.startswith(prefix)}, kernel


class _Forked:
    """A service that dies before one of its steps, or (0) does not."""

    def __init__(self, data: Path, last: int = 0) -> None:
        log = data.with_suffix(".log")
        log.write_text("")
        self.pid = run_service(last, data, log)
        self.url = ""
        self.dead = False
        while not self.url and not self._ended():
            found = re.search(r"listening on (http://\S+)", log.read_text())
            self.url = found[1] if found else ""
            time.sleep(0.01)

    def _ended(self) -> bool:
        if not self.dead:
            self.dead = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
        return self.dead

    def stop(self) -> None:
        if not self._ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.dead = True

    def site(self) -> Site:
        client = HttpClient(self.url, retries=0)
        return Site(index=Index(client), store=http_store(client), policy=TrustPolicy("unsigned"))


@pytest.mark.timeout(1200)  # some seventy kills, each with two starts and five pulls
def test_a_service_that_is_killed(tree: FoundTree, tmp_path: Path) -> None:
    for last in itertools.count(1):
        data = tmp_path / f"data{last}"
        copy = _copy(tree, tmp_path / "node", tmp_path / f"node{last}")
        service = _Forked(data, last)
        died = not service.url
        try:
            if service.url:
                publish_tree(service.site(), copy)
                pull_tree(service.site(), copy, H100, tmp_path / f"first{last}")
                service.site().index.delete(copy.hash)
        except (UnavailableError, StorageUnavailableError):
            died = True
        finally:
            service.stop()
        service = _Forked(data)
        try:
            site = service.site()
            _whole_or_nothing(pull_tree(site, copy, H100, tmp_path / f"early{last}"), copy)
            publish_tree(site, copy)
            _equal(pull_tree(site, copy, H100, tmp_path / f"late{last}"), copy)
            assert len(site.index.trees().trees) == 1
            site.index.delete(copy.hash)
            assert isinstance(pull_tree(site, copy, H100, tmp_path / f"gone{last}"), Miss)
            assert list(site.store.list("default/trees/")) == []
        finally:
            service.stop()
        if not died:
            break
    assert last > 20
