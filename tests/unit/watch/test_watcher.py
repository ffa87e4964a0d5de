"""The watcher: what becomes complete is published, once."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from aotcache.local.state import TreeState, target_of
from aotcache.net.http import HttpClient
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import VLLM_JIT
from aotcache.protocol.v1.lookup import Lookup
from aotcache.remote.index import Index
from aotcache.sync.published import Published
from aotcache.sync.pull import Pulled, pull
from aotcache.watch import watcher as module
from aotcache.watch.watcher import Watcher, directory_times
from support.process import free_ports
from support.site import publish_tree, pull_tree
from support.small import CountedIndex, Here, add, record, service_here, small_tree
from support.trees import H100

SECONDS = 30  # within which what has to happen happens, on a busy machine
HOLDER = """
import fcntl, sys
with open(sys.argv[1], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TICK", 0.02)
    monkeypatch.setattr(module, "_FIRST_RETRY", 0.05)


@dataclass
class Watching:
    """A watcher of a cache root, and what it has published."""

    here: Here
    root: Path
    results: queue.Queue[Published] = field(default_factory=queue.Queue)
    index: Index | None = None

    def __post_init__(self) -> None:
        site = self.here.site()
        self.sessions = site.index
        if self.index is not None:
            site = type(site)(self.index, site.store, site.policy)
        self.watcher = Watcher(
            site, "default", str(self.root), quiet=0.1, rescan=0.2, published=self.results.put
        )

    def once(self, timeout: float = SECONDS) -> dict[str, dict[str, int]]:
        """By the start of the hash, generations of the parts that this run published."""
        self.watcher.once(timeout)
        found = {}
        while not self.results.empty():
            result = self.results.get()
            found[result.tree.hash[:8]] = _new(result)
        return found

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self.watcher.run, args=(stop,))
        thread.start()
        try:
            yield
            assert thread.is_alive(), "an error ended the watcher"
        finally:
            stop.set()
            thread.join(SECONDS)

    def appear(self, name: str) -> FoundTree:
        """A tree that is there all at once: its files' times are old, so nothing is waited for."""
        made = self.root.with_name(f"made {name}")
        tree = small_tree(made, name=name)
        if self.root.exists():
            for path in (TreeState(tree.path).records, tree.path):
                place = self.root / Path(path).relative_to(made)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.rename(path, place)
        else:
            made.rename(self.root)
        path = str(self.root / Path(tree.path).relative_to(made))
        return msgspec.structs.replace(tree, path=path)

    def next(self) -> tuple[str, dict[str, int]]:
        result = self.results.get(timeout=SECONDS)
        return result.tree.hash[:8], _new(result)


def _new(result: Published) -> dict[str, int]:
    return {part.part: part.generation for part in result.parts if part.status == "published"}


@pytest.fixture
def watching(here: Here, tmp_path: Path) -> Watching:
    return Watching(here, tmp_path / "node")


def _sessions(watching: Watching) -> int:
    assert isinstance(watching.sessions, CountedIndex)
    return watching.sessions.sessions


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


ALL = {"shared": 1, "rank_0_0-d0": 1}


def test_once_publishes_what_is_complete(watching: Watching) -> None:
    trees = [small_tree(watching.root, name=name) for name in ("one", "two")]
    assert watching.once() == {tree.hash[:8]: ALL for tree in trees}
    assert watching.watcher.failed == {}


def test_once_without_a_cache_root(watching: Watching) -> None:
    assert watching.once() == {}


def test_once_waits_for_what_is_written(watching: Watching) -> None:
    tree = small_tree(watching.root)
    os.utime(Path(tree.path) / "rank_0_0/model")
    assert watching.once() == {tree.hash[:8]: ALL}


def test_what_is_left_out_is_named_once(
    watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    tree = small_tree(watching.root)
    (Path(tree.path) / "inductor_cache/ab/link.py").symlink_to("/etc/passwd")
    add(tree.path, "core.1234", b"dump")
    add(tree.path, "inductor_cache/triton/0/OUTSIDEOUTSIDE00/__grp__k.json", b'{"child_paths": 1}')
    outside = "inductor_cache/triton/0/OUTSIDEOUTSIDE01/__grp__k.json"
    add(tree.path, outside, b'{"child_paths": {"k": "/etc/passwd"}}')
    with caplog.at_level(logging.WARNING):
        watching.once()
        add(tree.path, "inductor_cache/ab/cnew.py", b"# new")
        assert watching.once() == {tree.hash[:8]: {"shared": 2}}
    named = [line for line in caplog.messages if line.startswith("left out of")]
    assert sorted(line.split(": ")[1] for line in named) == [
        "core.1234",
        "inductor_cache/ab/link.py",
        outside,
    ]


def test_nothing_is_published_while_a_process_holds_a_lock(watching: Watching) -> None:
    tree = small_tree(watching.root)
    lock = Path(tree.path) / "inductor_cache/locks/x.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert watching.once(timeout=0.2) == {}
        assert set(watching.watcher.failed) == {f"{tree.path} shared", f"{tree.path} rank_0_0"}
        assert "lock" in watching.watcher.failed[f"{tree.path} shared"]
        holder.kill()
    assert lock.exists()
    assert watching.once() == {tree.hash[:8]: ALL}
    assert watching.watcher.failed == {}


def test_an_empty_model_keeps_only_its_rank_back(watching: Watching) -> None:
    tree = small_tree(watching.root, ranks=(0, 1))
    add(tree.path, "rank_1_0/model", b"")
    assert watching.once() == {tree.hash[:8]: ALL}
    add(tree.path, "rank_1_0/model", b"model")
    assert watching.once() == {tree.hash[:8]: {"rank_1_0-d1": 1}}


def test_what_was_pulled_is_not_published_back(
    here: Here, watching: Watching, tmp_path: Path
) -> None:
    site = here.site()
    tree = small_tree(tmp_path / "elsewhere")
    publish_tree(site, tree)
    pulled = pull_tree(site, tree, H100, watching.root)
    assert isinstance(pulled, Pulled)
    assert watching.once() == {}
    assert _sessions(watching) == 0
    # What grows in it afterwards is.
    record(Path(pulled.path), "rank_0_0-d0")
    add(pulled.path, "inductor_cache/ab/cnew.py", b"# new")
    assert watching.once() == {tree.hash[:8]: {"shared": 2}}


def test_what_is_stored_already_is_asked_for_once(
    here: Here, watching: Watching, tmp_path: Path
) -> None:
    publish_tree(here.site(), small_tree(tmp_path / "elsewhere"))
    own = small_tree(watching.root)
    group = "inductor_cache/triton/0/OUTSIDEOUTSIDEOUTSIDE/__grp__k.json"
    add(own.path, group, b'{"child_paths": {"k": "/etc/passwd"}}')
    for _ in range(3):
        assert watching.once() in ({}, {own.hash[:8]: {}})
    assert _sessions(watching) == 1
    Path(own.path, group).unlink()
    restarted = Watching(here, watching.root)
    assert restarted.once() == {}
    assert _sessions(restarted) == 0


def test_another_namespace_or_store_is_published_to_as_well(
    here: Here, watching: Watching, tmp_path: Path
) -> None:
    tree = small_tree(watching.root)
    with service_here(tmp_path / "second") as second:
        for number in range(2):  # the second time nothing is new anywhere
            for place, namespace in ((here, "default"), (here, "team"), (second, "default")):
                again = Watching(place, watching.root)
                again.watcher.namespace = namespace
                assert again.once() == ({tree.hash[:8]: ALL} if number == 0 else {})
                assert again.watcher.failed == {}
                assert _sessions(again) == 1 - number


def test_what_was_pulled_from_elsewhere_without_a_record_is_named(
    here: Here, watching: Watching, tmp_path: Path
) -> None:
    tree = small_tree(tmp_path / "elsewhere")
    publish_tree(here.site(), tree, namespace="team")
    lookup = Lookup(layout=tree.layout, hash=tree.hash, platform=H100, namespace="team")
    place = tree_path(str(watching.root), tree.layout, tree.hash)
    assert isinstance(pull(here.site(), lookup, place), Pulled)
    assert watching.once() == {}
    assert "no engine record" in watching.watcher.failed[place]


def test_what_another_python_compiled_again_is_published(watching: Watching) -> None:
    tree = small_tree(watching.root)
    assert watching.once() == {tree.hash[:8]: ALL}
    other = replace(H100, python="cpython-3.11.8")
    add(tree.path, "rank_0_0/model", b"compiled again")
    record(Path(tree.path), "rank_0_0-d0", platform=other)
    assert watching.once() == {tree.hash[:8]: ALL}
    assert watching.once() == {}
    assert _sessions(watching) == 2


def test_a_part_that_was_pulled_alone_is_not_published_back(
    here: Here, watching: Watching, tmp_path: Path
) -> None:
    tree = small_tree(tmp_path / "elsewhere", cpp=True)  # for one CPU, which the rank does not show
    publish_tree(here.site(), tree)
    assert isinstance(pull_tree(here.site(), tree, H100, watching.root, "rank_0_0-d0"), Pulled)
    watching.watcher.platform = H100
    assert watching.once() == {}
    assert (_sessions(watching), watching.watcher.failed) == (0, {})


def test_what_was_deleted_from_the_service_is_not_published_again_by_itself(
    here: Here, watching: Watching
) -> None:
    tree = small_tree(watching.root)
    site = here.site()
    stored = publish_tree(site, tree).tree
    site.index.delete(stored.hash, namespace=stored.namespace, platform=stored.platform)
    assert watching.once() == {}
    assert {part.status for part in publish_tree(site, tree).parts} == {"published"}


def test_a_cache_root_that_is_not_there_is_named_once(
    watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), watching.running():
        _until(lambda: bool(caplog.messages))
        tree = watching.appear("later")
        assert watching.next() == (tree.hash[:8], ALL)
    assert caplog.messages == [
        f"there is no {watching.root} yet: nothing to publish; is it the right cache root?"
    ]


@pytest.mark.parametrize("name", ["shared", "rank_0_0-d0"])
def test_a_damaged_manifest_beside_the_tree_is_left_aside(
    here: Here, watching: Watching, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    tree = small_tree(watching.root)
    target = target_of(here.storage_url, "default", H100.for_any_cpu().id)
    TreeState(tree.path).remember(target, name, b"damaged")
    with caplog.at_level(logging.WARNING):
        assert watching.once() == {tree.hash[:8]: ALL}
    assert f"manifest {name} of {tree.path} is left aside" in caplog.text


def test_a_tree_without_a_record_is_named_and_keeps_no_other_back(watching: Watching) -> None:
    bare = small_tree(watching.root, name="bare", records=False)
    tree = small_tree(watching.root, name="tree")
    assert watching.once() == {tree.hash[:8]: ALL}
    assert list(watching.watcher.failed) == [bare.path]
    assert "--platform" in watching.watcher.failed[bare.path]


def test_running_finds_what_was_completed_before_and_after(watching: Watching) -> None:
    before = small_tree(watching.root, name="before")
    with watching.running():
        assert watching.next() == (before.hash[:8], ALL)
        after = watching.appear("after")
        assert watching.next() == (after.hash[:8], ALL)


def test_running_finds_a_cache_root_that_is_made_later(watching: Watching) -> None:
    watching.watcher.rescan = 1000
    with watching.running():
        tree = watching.appear("later")
        assert watching.next() == (tree.hash[:8], ALL)


def test_running_finds_growth(watching: Watching) -> None:
    tree = small_tree(watching.root)
    with watching.running():
        assert watching.next() == (tree.hash[:8], ALL)
        _until(lambda: not watching.watcher._trees[tree.path].active)
        add(tree.path, "inductor_cache/ab/cgrown.best_config", b"{}")
        assert watching.next() == (tree.hash[:8], {"shared": 2})
        _until(lambda: not watching.watcher._trees[tree.path].active)
        record(Path(tree.path), "rank_1_0-d1")
        add(tree.path, "rank_1_0/model", b"model of the second rank")
        assert watching.next() == (tree.hash[:8], {"rank_1_0-d1": 1})


def test_running_finds_the_last_file_of_the_older_layout(watching: Watching) -> None:
    path = watching.root / "torch_compile_cache/0123456789"
    add(path, "rank_0_0/backbone/computation_graph.py", b"graph")
    add(path, "rank_0_0/backbone/artifact_shape_None_subgraph_0", b"artifact")
    watching.watcher.platform = replace(H100, device="cpu", arch="")
    with watching.running():
        _until(lambda: str(path) in watching.watcher._trees)
        _until(lambda: not watching.watcher._trees[str(path)].active)
        add(path, "rank_0_0/backbone/vllm_compile_cache.py", b"{}")
        found = watching.results.get(timeout=SECONDS)
    assert (found.tree.layout, _new(found)) == (VLLM_JIT, {"rank_0_0-d0": 1})


def test_a_tree_that_is_deleted_is_forgotten(watching: Watching) -> None:
    tree = small_tree(watching.root, records=False)
    with watching.running():
        _until(lambda: tree.path in watching.watcher.failed)
        shutil.rmtree(tree.path)
        _until(lambda: watching.watcher._trees == {})
        _until(lambda: watching.watcher.failed == {})


def test_a_service_that_is_away_at_first(
    here: Here, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    index = Index(HttpClient(f"http://127.0.0.1:{port}", retries=0))
    watching = Watching(here, tmp_path / "node", index=index)
    tree = small_tree(watching.root)
    with caplog.at_level(logging.WARNING), watching.running():
        _until(lambda: caplog.text.count("not published, again in") > 1)
        assert tree.path in watching.watcher.failed
        index._client = HttpClient(here.url, retries=0)
        assert watching.next() == (tree.hash[:8], ALL)
        _until(lambda: watching.watcher.failed == {})


def test_a_cache_root_that_cannot_be_read_for_a_while(
    watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    home = watching.root / "torch_compile_cache"
    home.mkdir(parents=True)
    (home / "torch_aot_compile").symlink_to("torch_aot_compile")
    with caplog.at_level(logging.WARNING), watching.running():
        _until(lambda: "looked for trees in vain" in caplog.text)
        (home / "torch_aot_compile").unlink()
        tree = watching.appear("later")
        assert watching.next() == (tree.hash[:8], ALL)


def test_few_watches_whatever_the_number_of_trees(watching: Watching) -> None:
    trees = [small_tree(watching.root, name=f"tree{n}", model_bytes=1000) for n in range(50)]
    with watching.running():
        _until(lambda: len(watching.watcher._trees) == len(trees))
        _until(lambda: _watches() > 0)
        assert _watches() < 10


def _watches() -> int:
    """The inotify watches of this process."""
    count = 0
    for descriptor in os.listdir("/proc/self/fdinfo"):
        try:
            info = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        except FileNotFoundError:
            continue
        count += sum(line.startswith("inotify ") for line in info.splitlines())
    return count


GROWN = [
    "inductor_cache/ab/cnew.py",
    "inductor_cache/zz/cnew.py",
    "inductor_cache/fxgraph/cd/fnew/agraph",
    "inductor_cache/fxgraph/cd/fgraph/anew",
    "inductor_cache/aotautograd/fgraph/anew",
    "inductor_cache/aotautograd/fnew/agraph",
    "inductor_cache/aotautograd/zz/agraph",
    "inductor_cache/triton/0/NEWKERNELNEWKERNEL/k.cubin",
    "inductor_cache/triton/1/NEWKERNELNEWKERNEL/k.cubin",
    "rank_0_0/model.new",
    "rank_1_0/model",
    "rank_0_0/backbone/artifact_new/ab/cnew.py",
]


@pytest.mark.parametrize("path", GROWN)
def test_growth_shows_in_the_times_of_directories(tmp_path: Path, path: str) -> None:
    tree = small_tree(tmp_path)
    before = directory_times(tree.path)
    assert directory_times(tree.path) == before
    add(tree.path, path, b"new")
    assert directory_times(tree.path) != before


def test_looks_that_take_long_are_rare(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle watcher of many trees takes at most a two-hundredth of a core."""
    watching = Watching(here, tmp_path / "root")
    small_tree(watching.root)
    looks = []

    def slow(_path: str) -> int:
        looks.append(time.thread_time())
        while time.thread_time() < looks[-1] + 0.1:
            pass
        return len(looks)  # it grew: what is due is looked at again at once

    monkeypatch.setattr(module, "directory_times", slow)
    with watching.running():
        watching.results.get(timeout=SECONDS)
        time.sleep(2)
        assert len(looks) <= 2  # when it was found, and its first turn


_listening: list[list[str]] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event == "os.scandir" and _listening:
        _listening[-1].append(str(arguments[0]))


sys.addaudithook(_hear)


def test_the_directories_of_kernels_are_not_read(tmp_path: Path) -> None:
    tree = small_tree(tmp_path, ranks=(0, 1))
    heard: list[str] = []
    _listening.append(heard)
    directory_times(tree.path)
    _listening.pop()
    assert sorted(os.path.relpath(folder, tree.path) for folder in heard) == [
        ".",
        "inductor_cache",
        "inductor_cache/aotautograd",
        "inductor_cache/aotautograd/ef",
        "inductor_cache/fxgraph",
        "inductor_cache/fxgraph/cd",
        "inductor_cache/locks",
        "inductor_cache/triton",
        "rank_0_0",
        "rank_1_0",
    ]


def test_a_tree_that_is_gone_has_times_too(tmp_path: Path) -> None:
    gone = FoundTree(VLLM_JIT, "0123456789", str(tmp_path / "gone"))
    assert directory_times(gone.path) == directory_times(gone.path)
