"""The watcher as a process of its own: real content, a real service, many trees."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from aotcache.probe.trees import FoundTree
from aotcache.sync.pull import Pulled
from support.process import free_ports
from support.site import AOTCACHE, Service, pull_tree
from support.small import add, small_tree
from support.trees import H100, contents, make_ranks

SECONDS = 60  # within which what has to happen happens, on a busy machine


class Watching:
    """`aotcache watch` and what it says."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text()

    def until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not true():
            in_time = self.process.poll() is None and time.monotonic() < end
            assert in_time, self.said[-3000:]
            time.sleep(0.05)

    def until_said(self, pattern: str) -> None:
        self.until(lambda: re.search(pattern, self.said) is not None)

    def watches(self) -> int:
        """The inotify watches of the process."""
        folder = Path(f"/proc/{self.process.pid}/fdinfo")
        text = "".join(_read(folder / descriptor) for descriptor in os.listdir(folder))
        return text.count("inotify wd:")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


@contextmanager
def watch(root: Path, url: str, log: Path, *words: str) -> Iterator[Watching]:
    env: Mapping[str, str] = {
        **os.environ,
        "AOTCACHE_URL": url,
        "AOTCACHE_TRUST": "unsigned",
        "XDG_CONFIG_HOME": str(log.parent / "config"),
    }
    command = [*AOTCACHE, "watch", "--cache-root", str(root), "--quiet", "0.5", *words]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    try:
        yield Watching(process, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def tree(tmp_path: Path, triton_kernels: Path, inductor_output: Path) -> FoundTree:
    return make_ranks(tmp_path / "node", triton_kernels, inductor_output, range(2), world=3)


def test_a_tree_and_its_growth_reach_another_place(
    service: Service, tree: FoundTree, tmp_path: Path, triton_kernels: Path, inductor_output: Path
) -> None:
    root, fresh = tmp_path / "node", tmp_path / "fresh"
    with watch(root, service.url, tmp_path / "log", "--rescan", "0.5") as watching:
        # Completed before the watcher was there.
        watching.until_said("rank_1_0-d1 published")
        pulled = pull_tree(service.site(), tree, H100, fresh)
        assert isinstance(pulled, Pulled)
        assert pulled.missing == ("rank_2_0-d2",)
        assert set(contents(pulled.path)) == set(contents(tree.path))

        # Growth: what autotuning adds, and the last rank.
        add(tree.path, "inductor_cache/zz/cgrown.best_config", b"{}")
        watching.until_said(r"shared published \(generation 2, 1 new files\)")
        whole = make_ranks(tmp_path / "made", triton_kernels, inductor_output, range(3), world=3)
        records = Path(tree.path).parent / ".aotcache/records" / tree.hash
        made = Path(whole.path).parent / ".aotcache/records" / tree.hash
        (made / "rank_2_0-d2.json").rename(records / "rank_2_0-d2.json")
        Path(whole.path, "rank_2_0").rename(Path(tree.path, "rank_2_0"))
        watching.until_said("rank_2_0-d2 published")
        assert watching.stop() == 0

    again = pull_tree(service.site(), tree, H100, fresh)
    assert isinstance(again, Pulled)
    assert (again.missing, again.installed) == ((), 2)
    assert set(contents(again.path)) == set(contents(tree.path))

    # What was pulled is not published back, not even asked for: there is no service any more.
    service.stop()
    with watch(fresh, service.url, tmp_path / "back", "--once") as watching:
        assert watching.process.wait(SECONDS) == 0, watching.said
        assert "published" not in watching.said


def test_few_watches_and_a_service_that_comes_later(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    root = tmp_path / "node"
    trees = [small_tree(root, name=f"tree{n}", model_bytes=1000) for n in range(12)]
    with watch(root, f"http://127.0.0.1:{port}", tmp_path / "log", "--rescan", "1") as watching:
        watching.until_said("not published, again in")
        watching.until(lambda: watching.watches() > 0)
        assert watching.watches() < 10
        service = Service(tmp_path / "service", port=port)
        service.start()
        try:
            watching.until(lambda: watching.said.count("rank_0_0-d0 published") == len(trees))
            assert watching.watches() < 10
            assert watching.stop() == 0
            pulled = pull_tree(service.site(), trees[-1], H100, tmp_path / "fresh")
        finally:
            service.stop()
    assert isinstance(pulled, Pulled)


ENGINE = """
import sys, time
from aotcache.local.node import join_engines

held = join_engines(sys.argv[1])
print("lives", flush=True)
sys.stdin.readline()
"""


@contextmanager
def _engine(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that counts as an engine of a cache root until its stdin ends, or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENGINE, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"lives\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


ENGINES = ("--while-engines-run", "--rescan", "1")


def test_a_publisher_ends_with_the_last_engine(service: Service, tmp_path: Path) -> None:
    root = tmp_path / "node"
    first = small_tree(root, name="first")
    with (
        _engine(root) as engine,
        _engine(root) as other,
        watch(root, service.url, tmp_path / "log", *ENGINES) as watching,
    ):
        watching.until_said("rank_0_0-d0 published")
        engine.kill()
        engine.wait()
        second = small_tree(root, name="second")
        watching.until(lambda: watching.said.count("rank_0_0-d0 published") == 2)
        assert watching.process.poll() is None
        # Saved just before the last engine ends, and not settled yet.
        last = small_tree(root, name="last")
        for file in Path(last.path).rglob("*"):
            os.utime(file)
        other.communicate()
        assert watching.process.wait(SECONDS) == 0, watching.said
    for tree in (first, second, last):
        assert isinstance(pull_tree(service.site(), tree, H100, tmp_path / "fresh"), Pulled)


def test_a_second_publisher_ends_at_once(service: Service, tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "node", tmp_path / "elsewhere"
    with (
        _engine(root),
        _engine(elsewhere),
        watch(root, service.url, tmp_path / "log", *ENGINES) as watching,
    ):
        watching.until_said("watching ")
        with watch(root, service.url, tmp_path / "second", *ENGINES) as second:
            assert second.process.wait(SECONDS) == 0
            assert "another process publishes from" in second.said
        with watch(elsewhere, service.url, tmp_path / "third", *ENGINES) as third:
            third.until_said("watching ")  # of its own cache root
        assert watching.process.poll() is None
        assert os.getpriority(os.PRIO_PROCESS, watching.process.pid) == 19


def test_a_publisher_without_an_engine_publishes_what_is_there(
    service: Service, tmp_path: Path
) -> None:
    root = tmp_path / "node"
    tree = small_tree(root)
    with watch(root, service.url, tmp_path / "log", *ENGINES) as watching:
        assert watching.process.wait(SECONDS) == 0, watching.said
    assert isinstance(pull_tree(service.site(), tree, H100, tmp_path / "fresh"), Pulled)


@pytest.mark.parametrize("problem", ["no record", "no service"])
def test_what_cannot_be_published_does_not_keep_a_publisher_alive(
    service: Service, tmp_path: Path, problem: str
) -> None:
    root = tmp_path / "node"
    tree = small_tree(root, records=problem != "no record")
    url = "http://127.0.0.1:1" if problem == "no service" else service.url
    with _engine(root) as engine, watch(root, url, tmp_path / "log", *ENGINES) as watching:
        watching.until_said("not published, again in")
        engine.communicate()
        assert watching.process.wait(SECONDS) == 0, watching.said
    assert f"not published: {tree.path}: " in watching.said


def test_a_publisher_stays_for_an_engine_that_comes_back(service: Service, tmp_path: Path) -> None:
    """Its own publisher has seen this one, and ended."""
    root = tmp_path / "node"
    tree = small_tree(root)
    with _engine(root) as engine, watch(root, service.url, tmp_path / "log", *ENGINES) as watching:
        watching.until_said("rank_0_0-d0 published")
        add(tree.path, "inductor_cache/zz/cnew.py", b"# new")
        for file in Path(tree.path).rglob("cnew.py"):
            os.utime(file)
        with _engine(root):
            engine.communicate()
            watching.until_said(r"shared published \(generation 2")
            assert watching.process.poll() is None
        assert watching.process.wait(SECONDS) == 0, watching.said
