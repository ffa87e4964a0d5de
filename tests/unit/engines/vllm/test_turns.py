"""Leases as the engine sees them: companions of two nodes against a real service."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aotcache import settings
from aotcache.core.trust import TrustPolicy
from aotcache.engines.vllm.facts import Detected, Facts
from aotcache.engines.vllm.fetching import Fetching
from aotcache.net.http import HttpClient
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import SHARED, VLLM_AOT
from aotcache.remote.index import Index
from aotcache.storage import http_store
from aotcache.sync.site import Site
from aotcache.watch.watcher import Watcher
from aotcache_service.http.waiting import LOOK_SECONDS
from support.site import Service, publish_tree, run
from support.small import LONG_AGO, add, record, small_tree
from support.trees import H100, RECIPE

PART = "rank_0_0-d0"
SECONDS = 4  # of a lease that is not heard of any more
LONG = 120  # of one that nobody waits for the end of
SOON = 30.0  # before a wait of WAIT ends
WAIT = 60


@pytest.fixture
def leasing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Service]:
    lease = str(getattr(request, "param", SECONDS))
    with run(tmp_path / "service", env={"AOTCACHE_LEASE_SECONDS": lease}) as found:
        for name, value in {
            settings.URL: found.url,
            settings.TRUST: "unsigned",
            settings.WAIT: str(WAIT),
            settings.PUBLISH: "1",
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
        }.items():
            monkeypatch.setenv(name, value)
        yield found


class Node:
    def __init__(self, root: Path) -> None:
        self.warned: list[str] = []
        self.root = root
        self.fetching = Fetching(self.warned.append)
        self.facts = Facts(
            cache_root=str(root),
            part=PART,
            detected=Detected(platform=H100, notes={}),
            recipe=RECIPE,
            expected_parts=(SHARED, PART),
        )

    def turn(self, tree_hash: str, reason: str = "unknown_hash") -> bool:
        """After a miss, as a start does it."""
        self.fetching.ask(self.facts, tree_hash)
        self.fetching.collect()
        assert self.fetching.why.startswith(reason), self.fetching.why
        return self.fetching.turn(self.facts, tree_hash)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    found = Node(tmp_path / "one"), Node(tmp_path / "two")
    yield found
    for node in found:
        node.fetching.kill()


@pytest.fixture
def tree(tmp_path: Path) -> FoundTree:
    return small_tree(tmp_path / "compiled")


@pytest.mark.parametrize("leasing", [LONG], indirect=True)
@pytest.mark.usefixtures("leasing")
def test_an_engine_that_dies_frees_it_at_once(nodes: tuple[Node, Node], tree: FoundTree) -> None:
    first, second = nodes
    assert not first.turn(tree.hash)
    process = first.fetching._companion._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()  # as the kernel does when the engine is killed
    process.wait(SOON)
    assert not second.turn(tree.hash)
    assert not second.fetching.waited_for


@pytest.mark.usefixtures("leasing")
def test_a_companion_that_is_killed_frees_it_soon(
    nodes: tuple[Node, Node], tree: FoundTree
) -> None:
    first, second = nodes
    assert not first.turn(tree.hash)
    first.fetching.kill()
    assert not second.turn(tree.hash)
    assert second.fetching.waited_for
    assert second.fetching.waiting.waited < SOON


def test_what_is_compiled_is_waited_for_after_the_engine_has_ended(
    leasing: Service, nodes: tuple[Node, Node], tree: FoundTree
) -> None:
    first, second = nodes
    assert not first.turn(tree.hash)
    add(tree_path(str(first.root), VLLM_AOT, tree.hash), "rank_0_0/model", b"model")
    first.fetching.compiled(tree.hash, published=True)
    process = first.fetching._companion._process
    assert process is not None
    first.fetching.end(str(first.root), tell=False)
    time.sleep(1.5 * SECONDS)
    assert process.poll() is None
    record(Path(tree.path), PART, recipe=RECIPE)
    publish_tree(leasing.site(), tree)
    assert process.wait(SOON) == 0
    second.fetching.ask(second.facts, tree.hash)
    second.fetching.collect()
    assert second.fetching.brought


@pytest.mark.parametrize("leasing", [LONG], indirect=True)
def test_a_rank_that_is_published_before_what_all_share_is_waited_for(
    leasing: Service, nodes: tuple[Node, Node], tree: FoundTree
) -> None:
    """Another rank of its node still compiles, and writes there."""
    first, second = nodes
    assert not first.turn(tree.hash)
    small_tree(first.root, ranks=(0, 1))
    first.fetching.compiled(tree.hash, published=True)
    kernel = Path(tree_path(str(first.root), VLLM_AOT, tree.hash)) / "inductor_cache/ab/cghijkl.py"
    watcher = Watcher(leasing.site(), "default", str(first.root), quiet=30.0)

    def publishes() -> None:
        kernel.write_bytes(b"# of rank 1\n")
        watcher.once(timeout=0.0)
        (found,) = leasing.site().index.tree(tree.hash).trees
        assert {part.part for part in found.parts} == {PART, "rank_1_0-d1"}
        while not second.fetching.waited_for:
            time.sleep(0.01)
        time.sleep(2 * LOOK_SECONDS)
        os.utime(kernel, (LONG_AGO, LONG_AGO))
        Watcher(leasing.site(), "default", str(first.root)).once()

    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(publishes)
        while not leasing.site().index.trees().trees and not published.done():
            time.sleep(0.05)
        assert second.turn(tree.hash, "part_missing")
        published.result()
    second.fetching.ask(second.facts, tree.hash)
    second.fetching.collect()
    assert second.fetching.brought


@pytest.mark.parametrize("leasing", [LONG], indirect=True)
@pytest.mark.usefixtures("leasing")
def test_what_nothing_publishes_is_not_waited_for(
    nodes: tuple[Node, Node], tree: FoundTree
) -> None:
    first, second = nodes
    assert not first.turn(tree.hash)
    first.fetching.compiled(tree.hash, published=False)
    assert not second.turn(tree.hash)
    assert second.fetching.waiting.waited < SOON


@pytest.mark.parametrize("leasing", [LONG], indirect=True)
@pytest.mark.usefixtures("leasing")
def test_a_publish_that_fails_is_not_waited_for(nodes: tuple[Node, Node], tree: FoundTree) -> None:
    first, second = nodes
    assert not first.turn(tree.hash)
    compiled = add(tree_path(str(first.root), VLLM_AOT, tree.hash), "rank_0_0/model", b"model")
    first.fetching.compiled(tree.hash, published=True)
    small_tree(first.root)
    away = HttpClient("http://127.0.0.1:9", retries=0)
    site = Site(index=Index(away), store=http_store(away), policy=TrustPolicy("unsigned"))
    watcher = Watcher(site, "default", str(first.root))
    watcher.once()
    assert compiled.exists()
    assert watcher.failed
    assert not second.turn(tree.hash)
    assert second.fetching.waiting.waited < SOON


@pytest.mark.usefixtures("leasing")
def test_what_could_not_be_pulled_any_more_is_not_waited_for(
    nodes: tuple[Node, Node], tree: FoundTree
) -> None:
    first, second = nodes
    assert not first.turn(tree.hash)
    second.fetching.ask(second.facts, tree.hash)
    second.fetching.collect()
    second.fetching.budget.total = 0.5
    assert not second.fetching.turn(second.facts, tree.hash)
    assert not second.fetching.waited_for
    assert second.fetching.why.endswith("no time left to pull it then (AOTCACHE_DEADLINE)")


def test_who_waits_says_so_and_pulls(
    leasing: Service,
    nodes: tuple[Node, Node],
    tree: FoundTree,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = nodes
    caplog.set_level("INFO", "vllm.aotcache")
    assert not first.turn(tree.hash)

    def publishes() -> None:
        while not second.fetching.waited_for:
            time.sleep(0.01)
        record(Path(tree.path), PART, recipe=RECIPE)
        publish_tree(leasing.site(), tree)

    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(publishes)
        assert second.turn(tree.hash)
        published.result()
    assert "has been compiling it for" in caplog.text
    assert "at most 60 s (AOTCACHE_WAIT)" in caplog.text
    second.fetching.ask(second.facts, tree.hash)
    second.fetching.collect()
    assert second.fetching.brought


def test_a_service_that_is_gone_is_asked_no_more(
    leasing: Service, nodes: tuple[Node, Node], tree: FoundTree
) -> None:
    first, _ = nodes
    first.fetching.ask(first.facts, tree.hash)
    first.fetching.collect()
    leasing.stop()
    assert not first.fetching.turn(first.facts, tree.hash)
    assert "not known whether another node compiles it" in first.fetching.closed
    assert not first.fetching.turn(first.facts, tree.hash)


@pytest.mark.parametrize("wait", ["", "0", "-5", "soon"])
@pytest.mark.usefixtures("leasing")
def test_off_nobody_is_asked(
    wait: str, monkeypatch: pytest.MonkeyPatch, tree: FoundTree, tmp_path: Path
) -> None:
    monkeypatch.setenv(settings.WAIT, wait)
    node = Node(tmp_path / "node")
    assert not node.turn(tree.hash)
    assert node.fetching._companion.unanswered == 0
    assert (node.fetching.waiting.waited, node.fetching._leased) == (0.0, set())
    node.fetching.kill()
