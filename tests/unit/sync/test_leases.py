"""One compiles, the others wait: nodes of threads, against a real service."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from aotcache.errors import UnavailableError
from aotcache.net.http import HttpClient
from aotcache.probe.trees import FoundTree
from aotcache.protocol.names import SHARED
from aotcache.protocol.v1.leases import FREE, GRANTED, HELD, STORED, AskLease, Lease
from aotcache.protocol.v1.lookup import Lookup
from aotcache.remote.index import Index
from aotcache.sync import leases
from aotcache.sync.leases import Leases
from support.process import free_ports
from support.site import Service, aotcache, printed, publish_tree, run
from support.small import record, small_tree
from support.trees import H100, RECIPE

PART = "rank_0_0-d0"
SECONDS = 6  # of a lease that is not heard of any more
SOON = 5.9  # before that
RESTART = 8  # of one that has to outlast a start of the service on a busy machine


@pytest.fixture
def leasing(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    env = {"AOTCACHE_LEASE_SECONDS": str(getattr(request, "param", SECONDS))}
    with run(tmp_path / "service", env=env, port=free_ports(1)[0]) as found:
        yield found


@pytest.fixture
def tree(tmp_path: Path) -> FoundTree:
    return small_tree(tmp_path / "node")


@dataclass
class Node:
    """Asks for its turn, and says when it has begun to wait."""

    leases: Leases
    tree: FoundTree

    def __post_init__(self) -> None:
        self.waits = threading.Event()
        self.told: list[Lease] = []

    @property
    def lookup(self) -> Lookup:
        about = {"layout": self.tree.layout, "hash": self.tree.hash, "platform": H100}
        return Lookup(**about, parts=(SHARED, PART))  # type: ignore[arg-type]

    def turn(self, budget: float = 60.0, *, hold: bool = True) -> tuple[str, str]:
        def waiting(held: Lease) -> None:
            self.told.append(held)
            self.waits.set()

        about = {"recipe": RECIPE, "node": "gpu-7", "waiting": waiting}
        return self.leases.turn(self.lookup, PART, budget=budget, hold=hold, **about)  # type: ignore[arg-type]


@pytest.fixture
def nodes(leasing: Service, tree: FoundTree) -> tuple[Node, Node]:
    return (
        Node(Leases(leasing.site().index), tree),
        Node(Leases(leasing.site().index), tree),
    )


@pytest.fixture
def waiting(nodes: tuple[Node, Node]) -> Iterator[Future[tuple[str, str]]]:
    """The second one's turn, when the first one compiles and the second one waits."""
    first, second = nodes
    assert first.turn() == (GRANTED, "")
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(second.turn)
        assert second.waits.wait(10)
        yield found
        first.leases.finish()


def test_who_waits_pulls_what_is_published(
    leasing: Service,
    tree: FoundTree,
    nodes: tuple[Node, Node],
    waiting: Future[tuple[str, str]],
) -> None:
    (told,) = nodes[1].told
    assert (told.state, told.node) == (HELD, "gpu-7")
    time.sleep(1.5 * SECONDS)  # the first one is heard of
    assert not waiting.done()
    record(Path(tree.path), PART, recipe=RECIPE)
    publish_tree(leasing.site(), tree)
    assert waiting.result(SOON) == (STORED, "")
    assert nodes[1].turn() == (STORED, "")


def test_who_waits_is_next_when_the_other_fails(
    nodes: tuple[Node, Node], waiting: Future[tuple[str, str]]
) -> None:
    nodes[0].leases.let_go(nodes[0].lookup, PART)
    assert waiting.result(SOON) == (GRANTED, "")


class Renewing(Index):
    """Says when it renews a lease, and goes on when it is let."""

    def __init__(self, service: Service) -> None:
        super().__init__(HttpClient(service.url))
        self.renews, self.let = threading.Event(), threading.Event()

    def lease(self, asked: AskLease) -> Lease:
        if threading.current_thread().name == "aotcache-leases":
            self.renews.set()
            assert self.let.wait(SOON)
        return super().lease(asked)


def test_a_lease_that_is_let_go_while_it_is_renewed_is_free(
    leasing: Service, nodes: tuple[Node, Node]
) -> None:
    index = Renewing(leasing)
    first = Node(Leases(index), nodes[0].tree)
    assert first.turn() == (GRANTED, "")
    with ThreadPoolExecutor(1) as pool:
        assert index.renews.wait(SOON)
        ended = pool.submit(first.leases.let_go, first.lookup, PART)
        time.sleep(0.5)  # as long as an end would take that does not wait for it
        index.let.set()
        ended.result(SOON)
    first.leases.finish()
    assert nodes[1].turn(budget=0.5) == (GRANTED, "")
    nodes[1].leases.finish()


def test_who_waits_is_next_when_the_other_is_not_heard_of(
    leasing: Service, nodes: tuple[Node, Node]
) -> None:
    index = leasing.site().index
    gone = AskLease(lookup=nodes[0].lookup, part=PART, holder="f" * 32)
    assert index.lease(gone).state == GRANTED
    begin = time.monotonic()
    assert nodes[1].turn() == (GRANTED, "")
    assert time.monotonic() - begin > SOON - 1
    nodes[1].leases.finish()


def test_waiting_ends_with_its_budget(
    nodes: tuple[Node, Node], waiting: Future[tuple[str, str]]
) -> None:
    begin = time.monotonic()
    state, why = Node(nodes[1].leases, nodes[1].tree).turn(budget=1.0)
    assert (state, "waited 1 s" in why) == (FREE, True)
    assert time.monotonic() - begin < 10
    assert not waiting.done()


def test_a_node_that_does_not_publish_keeps_nobody_waiting(nodes: tuple[Node, Node]) -> None:
    assert nodes[0].turn(hold=False) == (FREE, "")
    assert nodes[1].turn() == (GRANTED, "")
    nodes[1].leases.finish()


@pytest.mark.parametrize("leasing", [RESTART], indirect=True)
def test_a_restart_of_the_service_loses_no_lease(
    leasing: Service, nodes: tuple[Node, Node], waiting: Future[tuple[str, str]]
) -> None:
    leasing.kill()
    leasing.start()
    time.sleep(RESTART)
    assert not waiting.done()
    nodes[0].leases.let_go(nodes[0].lookup, PART)
    assert waiting.result(5) == (GRANTED, "")


def test_who_waits_and_goes_away_is_given_nothing(
    leasing: Service, nodes: tuple[Node, Node]
) -> None:
    """Its connection ends in the middle of its question."""
    first, second = nodes
    assert first.turn() == (GRANTED, "")
    gone = AskLease(lookup=first.lookup, part=PART, holder="f" * 32, wait=20)
    address = urlsplit(leasing.url)
    connection = http.client.HTTPConnection(address.netloc, timeout=SOON)
    connection.request(
        "POST",
        "/v1/leases",
        msgspec.json.encode(gone),
        {"Content-Type": "application/json", "AOTCACHE-API": "1"},
    )
    time.sleep(1)
    connection.close()
    first.leases.let_go(first.lookup, PART)
    time.sleep(1)  # in which the service sees that, and would give it to who has waited
    assert second.turn(budget=0.5) == (GRANTED, "")
    second.leases.finish()


def test_a_service_that_ends_has_nobody_wait(
    leasing: Service, waiting: Future[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_GONE", 3.0)
    begin = time.monotonic()
    leasing.stop()
    assert time.monotonic() - begin < 5
    with pytest.raises(UnavailableError):
        waiting.result(60)


def test_what_is_compiled_is_kept_until_it_is_published(
    leasing: Service, tree: FoundTree, nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    first, second = nodes
    assert first.turn() == (GRANTED, "")
    model = tmp_path / "model"
    model.write_bytes(b"model")
    first.leases.compiled(first.lookup, PART, str(model))
    with ThreadPoolExecutor(2) as pool:
        ending = pool.submit(first.leases.finish)
        found = pool.submit(second.turn)
        time.sleep(1.5 * SECONDS)
        assert not ending.done()
        assert not found.done()
        record(Path(tree.path), PART, recipe=RECIPE)
        publish_tree(leasing.site(), tree)
        assert found.result(SOON) == (STORED, "")
        ending.result(10)


def test_what_left_no_file_is_let_go(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    first, second = nodes
    assert first.turn() == (GRANTED, "")
    first.leases.compiled(first.lookup, PART, str(tmp_path / "none"))
    first.leases.finish()
    assert second.turn() == (GRANTED, "")
    second.leases.finish()


def test_a_reader_is_given_none(leasing: Service, tree: FoundTree) -> None:
    made = {}
    for scope in ("read", "publish"):
        words = ("token", "create", "--data-dir", str(leasing.data), "--scope", scope, "--json")
        made[scope] = Index(HttpClient(leasing.url, str(printed(aotcache(*words))["token"])))
    assert Node(Leases(made["read"]), tree).turn() == (FREE, "")
    first = Node(Leases(made["publish"]), tree)
    assert first.turn() == (GRANTED, "")
    state, why = Node(Leases(made["read"]), tree).turn(budget=0.5)
    assert (state, bool(why)) == (FREE, True)
    first.leases.finish()


def test_switched_off_nobody_waits(tmp_path: Path, tree: FoundTree) -> None:
    with run(tmp_path / "off", env={"AOTCACHE_LEASE_SECONDS": "0"}) as service:
        for _ in range(2):
            assert Node(Leases(service.site().index), tree).turn() == (FREE, "")


def test_an_older_service_knows_no_leases(leasing: Service, tree: FoundTree) -> None:
    older = Index(HttpClient(f"{leasing.url}/older", retries=0))
    state, why = Node(Leases(older), tree).turn()
    assert (state, "no path" in why) == (FREE, True)
