"""The watcher: finds trees under a cache root, waits until parts are complete, publishes them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from aotcache.core.settling import State
from aotcache.errors import AotcacheError, FormatError, LocalError
from aotcache.local.records import read_records
from aotcache.local.state import TreeState, target_of, write_whole
from aotcache.probe.trees import FoundTree, LeftOut, TreeScan, find_trees, tree_folders
from aotcache.protocol.manifest import Statement, decode_manifest
from aotcache.protocol.names import SHARED, part_directory
from aotcache.protocol.platform import Platform
from aotcache.protocol.record import EngineRecord
from aotcache.sync.identity import identify, keyed_platform, platform_of
from aotcache.sync.publish import publish
from aotcache.sync.published import Published
from aotcache.sync.settle import QUIET, TreeLooks
from aotcache.sync.site import Site
from aotcache.watch.events import Events, on_network

logger = logging.getLogger(__name__)

_TICK = 0.5  # seconds between looks at trees that are being written
_LOOKS_SHARE = 20  # a look that took t seconds is not repeated for 20 t: at most 5 % of a core
_GROWTH_SHARE = 200  # the same for looks for growth, which go on for ever: at most 0.5 %
_GRAPHS = ("fxgraph", "aotautograd")
_FIRST_RETRY, _LAST_RETRY = 5.0, 300.0  # seconds until a failed publish is tried again


@dataclass(slots=True)
class _Watched:
    tree: FoundTree
    looks: TreeLooks
    retry: float
    active: bool = True
    times: int = 0
    next_look: float = 0.0
    named: set[LeftOut] = field(default_factory=set)
    # Paths that a publish has looked at, by platform: one tree may be compiled again for another.
    offered: dict[str, set[str]] = field(default_factory=dict)


@dataclass(slots=True)
class Watcher:
    """Publishes from one cache root.

    platform: for trees without a record (None: they are named in the log and left); a record says
    it itself. rescan: seconds between looks for growth in trees that were complete; more where
    there are so many that a look takes long. What was published stays published: a tree that is
    deleted from the service is not published again.
    """

    site: Site
    namespace: str
    cache_root: str
    platform: Platform | None = None
    quiet: float = QUIET
    rescan: float = 30.0
    published: Callable[[Published], None] = lambda result: None  # noqa: ARG005
    _trees: dict[str, _Watched] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    _again: bool = False
    _turns: deque[str] = field(default_factory=deque)  # whose growth is looked for next

    def once(self, timeout: float = 60.0) -> None:
        """Publish what is complete, or becomes so within `timeout` seconds, and return. What could
        not be published is in `failed`, by path. Raises LocalError where the cache root cannot be
        read."""
        self._again = False
        self.failed.clear()
        self._name_absent()
        self._find()
        end = time.monotonic() + timeout
        for watched in self._trees.values():
            try:
                watched.looks.wait(max(0.0, end - time.monotonic()))
            except AotcacheError as error:
                self._failed(watched, error)
                continue
            self._publish(watched)
            for folder, why in watched.looks.waiting.items():
                self.failed[f"{watched.tree.path} {folder}"] = why

    def run(self, stop: threading.Event, over: Callable[[], bool] = lambda: False) -> None:
        """Watch until `stop` is set, or `over` says so and all has been tried `once` more. No error
        of a publish ends it: it is logged and tried again."""
        events = None if on_network(self.cache_root) else Events()
        logger.info(
            "watching %s (%s)",
            self.cache_root,
            "network file system: by looks" if events is None else "by events",
        )
        self._name_absent()
        next_rescan, next_growth = 0.0, time.monotonic()
        try:
            while not stop.is_set():
                self._again = True
                if events is not None:
                    events.watch([self.cache_root, *tree_folders(self.cache_root)])
                    if events.changed.is_set():
                        events.changed.clear()
                        self._find_again()
                if time.monotonic() >= next_rescan:
                    self._find_again()
                    next_rescan = time.monotonic() + self.rescan
                while time.monotonic() >= next_growth:
                    begin = time.thread_time()
                    self._find_growth()
                    took = time.thread_time() - begin
                    each = self.rescan / max(1, len(self._trees))
                    next_growth = max(next_growth, time.monotonic() - self.rescan)
                    next_growth += max(each, _GROWTH_SHARE * took)
                for watched in self._trees.values():
                    if stop.is_set():
                        break
                    if watched.active and time.monotonic() >= watched.next_look:
                        self._look(watched)
                if over():
                    # What was saved since the last look is published too. What cannot be is not
                    # waited for: that may be never.
                    self.once()
                    if over():
                        break
                stop.wait(_TICK)
        finally:
            if events is not None:
                events.stop()

    def _name_absent(self) -> None:
        if not os.path.isdir(self.cache_root):
            logger.warning(
                "there is no %s yet: nothing to publish; is it the right cache root?",
                self.cache_root,
            )

    def _find_again(self) -> None:
        try:
            self._find()
        except LocalError as error:
            # Perhaps a network file system that is away: what is known is watched on.
            logger.warning("looked for trees in vain, again in %.0f s: %s", self.rescan, error)

    def _find(self) -> None:
        found = {tree.path: tree for tree in find_trees(self.cache_root)}
        for path in set(self._trees) - set(found):
            del self._trees[path]
            self.failed.pop(path, None)
        for path, tree in found.items():
            if path not in self._trees:
                # Before the first look at its files: what comes after it is growth.
                times = directory_times(path)
                looks = TreeLooks(tree, self.quiet)
                self._trees[path] = _Watched(tree, looks, _FIRST_RETRY, times=times)

    def _find_growth(self) -> None:
        """In one tree, the next in turn: in all of them it may take long."""
        if not self._turns:
            self._turns.extend(self._trees)
        watched = self._trees.get(self._turns.popleft()) if self._turns else None
        if watched is not None:
            times = directory_times(watched.tree.path)
            if times != watched.times:
                watched.times, watched.active = times, True

    def _look(self, watched: _Watched) -> None:
        begin = time.monotonic()
        try:
            watched.looks.look()
        except AotcacheError as error:
            self._failed(watched, error)
            return
        took = time.monotonic() - begin
        watched.next_look = time.monotonic() + max(_TICK, _LOOKS_SHARE * took)
        if set(watched.looks.states.values()) <= {State.COMPLETE, State.EMPTY}:
            # A rank that has not saved yet is found as growth when it does.
            watched.active = False
        if not watched.looks.complete:
            return
        self._publish(watched)

    def _failed(self, watched: _Watched, error: AotcacheError) -> None:
        self.failed[watched.tree.path] = str(error)
        with suppress(LocalError):
            # Nodes that wait for this one's compile need not wait for what is not published.
            write_whole(TreeState(watched.tree.path).unpublished, str(error).encode())
        if self._again:  # what `once` leaves, its caller says
            logger.warning("not published, again in %.0f s: %s", watched.retry, error)
        watched.active = True
        watched.next_look = time.monotonic() + watched.retry
        watched.retry = min(_LAST_RETRY, 2 * watched.retry)

    def _publish(self, watched: _Watched) -> None:
        tree, scan = watched.tree, watched.looks.scan
        self.failed.pop(tree.path, None)
        if scan is None:
            return
        self._name_left_out(watched, scan.left_out)
        try:
            records = read_records(tree.path)
            platforms = self._platforms(tree, scan, records)
            offered = watched.offered.setdefault(platforms[0] if platforms else "", set())
            remembered = self._remembered(tree, platforms)
            complete = watched.looks.complete
            folders = [name for name in complete if has_new(scan, name, remembered, offered)]
            if not folders:
                return
            identity = identify(tree, scan, records, self.platform)
            result = publish(
                self.site, self.namespace, tree, scan, identity, folders, complete=complete
            )
        except AotcacheError as error:
            self._failed(watched, error)
            return
        watched.retry = _FIRST_RETRY
        with suppress(OSError, LocalError):
            os.unlink(TreeState(tree.path).unpublished)
        offered |= {file.path for file in scan.files if file.part_dir in folders}
        self._name_left_out(watched, result.left_out)
        self.published(result)

    def _platforms(
        self, tree: FoundTree, scan: TreeScan, records: Sequence[EngineRecord]
    ) -> tuple[str, ...]:
        """Ids of the platform that the tree would be published for, and of the one that it was
        pulled for perhaps: a part that was pulled alone may lack the C++ that is for one CPU.
        Empty: nothing says it, so that what was pulled only can be told from what was not."""
        if not records and self.platform is None:
            return ()
        platform = platform_of(tree, records, self.platform)
        return keyed_platform(scan, platform).id, platform.id

    def _remembered(self, tree: FoundTree, platforms: Sequence[str]) -> list[Statement]:
        """What this node has pulled of a tree from here, or published to here, for these platforms;
        empty: for any."""
        state, url = TreeState(tree.path), self.site.store.url
        asked = {target_of(url, self.namespace, platform) for platform in platforms}
        found = []
        for target in asked or state.targets():
            for part, data in state.remembered(target).items():
                try:
                    said = decode_manifest(data).statement
                except FormatError as error:
                    # It only saves asking the service, which knows what is stored.
                    logger.warning("manifest %s of %s is left aside: %s", part, tree.path, error)
                    continue
                if target == target_of(url, self.namespace, said.platform.id):
                    found.append(said)
        return found

    def _name_left_out(self, watched: _Watched, left_out: tuple[LeftOut, ...]) -> None:
        for left in left_out:
            if left not in watched.named:
                watched.named.add(left)
                logger.warning(
                    "left out of %s: %s: %s", watched.tree.hash[:12], left.path, left.reason
                )


def has_new(
    scan: TreeScan, folder: str, remembered: Sequence[Statement], offered: Container[str] = ()
) -> bool:
    """Whether a directory holds a file that was not offered yet and is not in what is remembered of
    it. What was pulled is not published back."""
    new = {f.path for f in scan.files if f.part_dir == folder and f.path not in offered}
    for said in remembered:
        if folder == (SHARED if said.part == SHARED else part_directory(said.part)):
            new.difference_update(entry.path for entry in said.files)
    return bool(new)


def directory_times(tree_path: str) -> int:
    """A fingerprint of the directories in which new files show, without reading the many that hold
    the files themselves: Inductor's of two characters, its graphs' of a key, Triton's a kernel."""
    found = 0
    todo = [tree_path]
    while todo:
        folder = todo.pop()
        above, name = os.path.split(folder)
        # In triton/{device}, fxgraph/{2 chars}/{key} and aotautograd/{key} files lie in what is
        # listed here; a graph that grows by an entry shows in its key's directory alone.
        last = name in ("triton", "triton_cache") or os.path.basename(above) in _GRAPHS
        with suppress(OSError), os.scandir(folder) as entries:
            found ^= hash((folder, os.stat(folder).st_mtime_ns))
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                if last or (len(entry.name) == 2 and name not in _GRAPHS):
                    found ^= hash((entry.path, entry.stat(follow_symlinks=False).st_mtime_ns))
                else:
                    todo.append(entry.path)
    return found
