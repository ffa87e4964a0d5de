"""A fleet while something goes wrong: real processes of nodes, and what must hold afterwards."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import INDUCTOR
from aotcache.sync.connect import connect_by
from aotcache.sync.pull import Pulled
from support.s3 import S3Server
from support.site import AOTCACHE, aotcache, printed, pull_tree
from support.small import add, small_tree
from support.trees import H100, contents

Done = subprocess.CompletedProcess[str]

AGAIN_SECONDS = 90  # after which what does not work again is broken


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    log: Path

    def said(self, what: str) -> bool:
        return what in self.log.read_text()

    def wait_for(self, what: str) -> None:
        end = time.monotonic() + AGAIN_SECONDS
        while not self.said(what):
            assert not self.over, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> Done:
        """What it came to, by itself."""
        try:
            code = self.process.wait(timeout=120)
        finally:
            self.process.kill()
        return Done(self.process.args, code, "", self.log.read_text())


@dataclass
class Fleet:
    """Nodes of one service. Each pull is a fresh node's; all publish from one. env: what nodes
    have; those of a call come on top."""

    folder: Path
    env: dict[str, str]
    trees: list[FoundTree] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.platform = self.folder / "h100.json"
        self.platform.write_text(json.dumps(asdict(H100)))
        self.env.update(AOTCACHE_TRUST="unsigned", XDG_CONFIG_HOME=str(self.folder / "config"))

    @property
    def publisher(self) -> Path:
        return self.folder / "publisher"

    def tree(self, name: str, size: int = 1_000_000) -> FoundTree:
        """Two ranks, and a file of `size` bytes that cannot be compressed. Not published yet."""
        made = small_tree(self.publisher, name=name, ranks=(0, 1))
        add(made.path, "inductor_cache/zz/weights.py", random.Random(name).randbytes(size))
        return made

    def cache(self, key: str, size: int = 1_000_000) -> FoundTree:
        """What `exec --key` pulls, likewise."""
        path = tree_path(str(self.publisher), INDUCTOR, key)
        add(path, "zz/weights.py", random.Random(key).randbytes(size))
        return FoundTree(INDUCTOR, key, path)

    def words_of_push(self, tree: FoundTree) -> list[str]:
        words = ["push", tree.hash, "--cache-root", str(self.publisher)]
        # An engine would have left its record beside the tree.
        return words + (["--platform", str(self.platform)] if tree.layout == INDUCTOR else [])

    def push(self, tree: FoundTree, *, check: bool = True, **env: str) -> Done:
        done = aotcache(*self.words_of_push(tree), env={**self.env, **env}, check=check)
        if done.returncode == 0 and tree not in self.trees:
            self.trees.append(tree)
        return done

    def fresh(self) -> Path:
        return self.folder / f"node{next(self._numbers)}"

    def words_of_pull(self, tree: FoundTree, root: Path) -> list[str]:
        words = ["pull", tree.hash, "--layout", tree.layout, "--cache-root", str(root)]
        return [*words, "--platform", str(self.platform)]

    def pull(
        self, tree: FoundTree, root: Path | None = None, *, check: bool = True, **env: str
    ) -> Done:
        """Where it succeeds all of the tree has arrived, else nothing of it."""
        root = root or self.fresh()
        words = self.words_of_pull(tree, root)
        done = aotcache(*words, env={**self.env, **env}, check=check)
        self.check_node(tree, root, done.returncode)
        return done

    def start(self, *words: str, **env: str) -> Running:
        """A command of ours that goes on beside the test."""
        log = self.folder / f"said{next(self._numbers)}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*AOTCACHE, *words],
                env={**os.environ, **self.env, **env},
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        return Running(process, log)

    def exec(self, tree: FoundTree, root: Path, deadline: float, *command: str) -> Running:
        """Start a program with its cache."""
        words = ["exec", "--key", tree.hash, "--cache-root", str(root), "--no-publish"]
        words += ["--platform", str(self.platform), "--deadline", str(deadline), "--"]
        return self.start(*words, *command)

    def check_node(self, tree: FoundTree, root: Path, code: int) -> None:
        """Byte for byte what was published, or nothing that an engine would find."""
        place = Path(tree_path(str(root), tree.layout, tree.hash))
        got, had = contents(place) if place.exists() else {}, contents(tree.path)
        if code == 0:
            assert set(got) == set(had)
        for path, data in got.items():
            assert "__grp__" in path or data == had[path], f"{path} is torn"
        if code != 0:
            assert got == {}

    def seconds_to_pull(self, tree: FoundTree) -> float:
        """Until one succeeds again."""
        begin = time.monotonic()
        while (done := self.pull(tree, check=False)).returncode:
            assert time.monotonic() - begin < AGAIN_SECONDS, done.stderr
        return time.monotonic() - begin

    def seconds_to_normal(self, tree: FoundTree) -> float:
        """The same, and nothing is lost."""
        seconds = self.seconds_to_pull(tree)
        self.check_nothing_lost()
        return seconds

    def check_nothing_lost(self) -> None:
        """Index and storage agree, and all that was ever published arrives on fresh nodes."""
        found = printed(aotcache("reconcile", "--dry-run", "--json", env=self.env))
        wrong = {name: found[name] for name in ("added", "withdrawn", "skipped", "removed")}
        assert not any(wrong.values()), wrong
        site = connect_by(self.env)
        for tree in self.trees:
            root = self.fresh()
            assert isinstance(pull_tree(site, tree, H100, root), Pulled)
            self.check_node(tree, root, 0)


def last_line(done: Done) -> str:
    """Of what it said: where something failed, why."""
    (last, *_) = [*reversed(done.stderr.splitlines()), ""]
    return last


def direct(s3: S3Server, storage_url: str) -> Mapping[str, str]:
    """What a node has that goes to storage by itself."""
    return {"AOTCACHE_TRANSFER": "direct", "AOTCACHE_STORAGE_URL": storage_url, **s3.env()}


class Traffic:
    """Nodes of a fleet that pull a tree, and one that publishes new ones, over and over while the
    block runs; when it ends, it publishes again what it could not, as a watcher does: of a commit
    that was cut off the manifests may lie in storage. done: what each came to."""

    def __init__(self, fleet: Fleet, tree: FoundTree, **env: str) -> None:
        self.done: list[Done] = []
        self._fleet, self._tree, self._env = fleet, tree, env
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(3)
        self._left: list[FoundTree] = []

    def __enter__(self) -> Traffic:
        works = (self._pull, self._pull, self._publish)
        self._futures = [self._pool.submit(self._repeat, work) for work in works]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for future in self._futures:
            future.result()
        if kind is None:
            for tree in self._left:
                self._fleet.push(tree, **self._env)

    def wait(self, more: int) -> None:
        """Until so many more have ended."""
        end = len(self.done) + more
        while len(self.done) < end and not any(future.done() for future in self._futures):
            time.sleep(0.02)

    def _repeat(self, work: Callable[[int], Done]) -> None:
        for number in itertools.count():
            if self._over.is_set():
                break
            self.done.append(work(number))

    def _pull(self, _number: int) -> Done:
        return self._fleet.pull(self._tree, check=False, **self._env)

    def _publish(self, number: int) -> Done:
        tree = self._fleet.tree(f"new {number}", 100_000)
        done = self._fleet.push(tree, check=False, **self._env)
        if done.returncode:
            self._left.append(tree)
        return done
