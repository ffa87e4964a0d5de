"""Collecting beside publishes and pulls, and killed with -9: what is served keeps its bytes, and
what nobody needs goes. Real processes, real transfers."""

from __future__ import annotations

import itertools
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from aotcache.errors import (
    AotcacheError,
    BusyError,
    NotFoundError,
    StorageUnavailableError,
    UnavailableError,
)
from aotcache.probe.trees import FoundTree
from aotcache.protocol.manifest import decode_manifest
from aotcache.protocol.names import pack_key
from aotcache.protocol.v1.collect import Collect, Collection, Keep
from aotcache.protocol.v1.lookup import Miss
from aotcache.remote.index import Index
from aotcache.storage import DirectStore, open_store
from aotcache_service.index.database import Database
from aotcache_service.ops.collect import collect
from support.killing import killed_before
from support.process import free_ports
from support.site import Service, publish_tree, pull_tree
from support.small import add, service_here, small_tree
from support.trees import H100, contents

GRACE = 24 * 3600
FUTURE = int(time.time()) + 10 * GRACE  # all sessions are over


def neighbour(home: Path, name: str, seed: int) -> FoundTree:
    """Of the same kernels, code and first rank; of a seed, with a second one of its own."""
    tree = small_tree(home, name=name, ranks=range(2 if seed else 1))
    if seed:
        add(tree.path, "rank_1_0/model", random.Random(seed).randbytes(300_000))
    return tree


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, FoundTree]:
    """Of a service where one tree is deleted, and another one needs a little of its packs."""
    path = tmp_path / "data"
    first = neighbour(tmp_path / "first", "first", 1)
    second = neighbour(tmp_path / "second", "second", 0)
    with service_here(path) as here:
        publish_tree(here.site(), first)
        publish_tree(here.site(), second)
        here.site().index.delete(first.hash)
    return path, second


@contextmanager
def opened(path: Path) -> Iterator[tuple[Database, DirectStore]]:
    database = Database(f"sqlite:///{path}/index.sqlite3")
    store = open_store((path / "objects").as_uri())
    try:
        yield database, store
    finally:
        store.close()
        database.close()


def collected(path: Path, now: int) -> tuple[int, int]:
    """Packs rewritten and deleted."""
    with opened(path) as (database, store):
        done = collect(database, store, Keep(), clock=partial(int, now), grace=GRACE, small=0)
        return done.rewritten_packs, done.deleted_packs


def packs(store: DirectStore) -> dict[str, int]:
    return {found.key: found.size for found in store.list("default/packs/")}


def referred(store: DirectStore) -> set[str]:
    """By the manifests in storage."""
    keys = [found.key for found in store.list("default/trees/")]
    manifests = [decode_manifest(store.get(key)) for key in keys]
    return {pack_key("default", p.name) for m in manifests for p in m.locations.packs}


def test_a_collection_that_is_killed(data: tuple[Path, FoundTree], tmp_path: Path) -> None:
    """Before every step of storage and database; the next one completes it."""
    path, tree = data
    with opened(path) as (_, store):
        before = packs(store)
    for last in itertools.count(1):
        copy = tmp_path / f"copy{last}"
        shutil.copytree(path, copy)

        def operation(copy: Path = copy) -> None:
            # The second one deletes what the first has condemned.
            assert collected(copy, FUTURE)[0] == 1
            collected(copy, FUTURE + GRACE)

        killed = killed_before(last, [str(copy)], operation)
        with service_here(copy) as here:
            found = pull_tree(here.site(), tree, H100, tmp_path / f"pulled{last}")
            assert not isinstance(found, Miss)
        collected(copy, FUTURE + 2 * GRACE)
        collected(copy, FUTURE + 3 * GRACE)
        with opened(copy) as (_, store):
            after = packs(store)
            assert set(after) == referred(store), f"killed before step {last}"
        assert sum(after.values()) < 0.6 * sum(before.values())
        with service_here(copy) as here:
            found = pull_tree(here.site(), tree, H100, tmp_path / f"late{last}")
        assert not isinstance(found, Miss)
        there = contents(found.path)
        assert set(there) == set(contents(tree.path))
        assert there["rank_0_0/model"] == contents(tree.path)["rank_0_0/model"]
        shutil.rmtree(copy)
        if not killed:
            break
    assert last > 20


def test_what_was_rewritten_grows(data: tuple[Path, FoundTree], tmp_path: Path) -> None:
    """A publisher remembers the manifest that it put: it says where bytes no longer lie."""
    path, second = data
    with service_here(path) as here:
        assert collected(path, FUTURE) == (1, 0)
        assert collected(path, FUTURE + GRACE) == (0, 1)
        add(second.path, "inductor_cache/zz/czz.py", b"# more\n" * 100)
        done = publish_tree(here.site(), second)
        assert {part.status for part in done.parts} == {"published", "already stored"}
        found = pull_tree(here.site(), second, H100, tmp_path / "pulled")
        assert not isinstance(found, Miss)
        assert "inductor_cache/zz/czz.py" in contents(found.path)


# So that packs are deleted while the test lasts: the grace is of four seconds, a session of three,
# and a collection that was killed is followed after two.
SERVE = """
import functools, sys
from aotcache_service.commands import serve
from aotcache_service.ops import jobs
serve.HOUR = jobs.TURN = 2
serve.ServiceSettings = functools.partial(serve.ServiceSettings, session_seconds=3)
serve.serve(sys.argv[2:])
"""
TURNS = ("published", "pulled", "missed", "deleted", "collected", "with packs deleted")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_beside_publishes_and_pulls_and_killed(tmp_path: Path) -> None:
    """Three publishers, two pullers, somebody who deletes, a collection after the other, and a
    service that is killed four times."""
    (port,) = free_ports(1)
    service = Service(
        tmp_path / "data",
        port=port,
        command=(sys.executable, "-c", SERVE),
        env={"AOTCACHE_GRACE_HOURS": "2"},
    )
    trees = [neighbour(tmp_path / f"node{i}", f"tree{i}", i) for i in range(6)]
    end = time.monotonic() + 40
    wrong: list[str] = []
    counts = dict.fromkeys(TURNS, 0)
    lock = threading.Lock()

    def again(turn: Callable[[random.Random], str], seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < end:
            try:
                what = turn(chance)
            except NotFoundError:
                continue
            except (UnavailableError, StorageUnavailableError):
                time.sleep(0.1)  # the service was killed
                continue
            except AotcacheError as error:
                wrong.append(f"{turn.__name__}: {type(error).__name__}: {error}")
                continue
            with lock:
                counts[what] += 1

    def publishing(chance: random.Random) -> str:
        publish_tree(service.site(), chance.choice(trees))
        return "published"

    def pulling(chance: random.Random) -> str:
        tree = chance.choice(trees)
        place = tmp_path / f"pull{chance.random()}"
        found = pull_tree(service.site(), tree, H100, place)
        if isinstance(found, Miss):
            return "missed"
        for name, content in contents(found.path).items():
            if "__grp__" not in name and content != contents(tree.path)[name]:
                wrong.append(f"{name} of {tree.hash}")
        shutil.rmtree(place)
        return "pulled"

    def deleting(chance: random.Random) -> str:
        time.sleep(0.5)
        service.site().index.delete(chance.choice(trees).hash)
        return "deleted"

    def collecting(_chance: random.Random) -> str:
        time.sleep(0.2)
        with suppress(BusyError):
            done = ended(service.site().index, Collect(keep=Keep(per_recipe=4))).report
            return "with packs deleted" if done and done.deleted_packs else "collected"
        return "collected"

    service.start()
    try:
        turns = [publishing] * 3 + [pulling] * 2 + [deleting, collecting]
        with ThreadPoolExecutor(len(turns)) as pool:
            for seed, turn in enumerate(turns):
                pool.submit(again, turn, seed)
            for _ in range(4):
                time.sleep(8)
                assert service.process is not None
                service.kill()
                service.start()
        assert wrong == []
        assert min(counts.values()) >= 3, counts
        for _ in range(3):
            time.sleep(5)  # the sessions are over, then the grace
            assert ended(service.site().index, Collect()).error == ""
        listed = {tree.hash for tree in service.site().index.trees().trees}
        for number, tree in enumerate(trees):
            found = pull_tree(service.site(), tree, H100, tmp_path / f"last{number}")
            assert isinstance(found, Miss) == (tree.hash not in listed)
    finally:
        service.stop()
    with opened(tmp_path / "data") as (_, store):
        assert set(packs(store)) == referred(store)


def ended(index: Index, asked: Collect) -> Collection:
    state = index.collect(asked)
    while state.running:
        time.sleep(0.1)
        state = index.collection()
    return state
