"""Move: the missing files of one pull, fetched, staged, verified and installed."""

from __future__ import annotations

import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from posixpath import basename

from aotcache.core.places import Places
from aotcache.core.relocation import most_bytes
from aotcache.errors import FormatError, LocalError
from aotcache.local.install import install
from aotcache.local.staging import Staging, discard
from aotcache.local.state import TreeState, make_directories, read_bytes
from aotcache.protocol.manifest import NOT_RELOCATED, FileEntry, Manifest, decode_manifest
from aotcache.sync.fetch import Consume, Fetcher
from aotcache.sync.site import Site


class _Stage:
    """Files that are staged together and installed together. Its directories are made while the
    first bytes are on their way."""

    def __init__(
        self, path: str, tree_path: str, entries: Sequence[FileEntry], making: Executor
    ) -> None:
        self._staging = making.submit(Staging, path, tree_path, entries)
        self.entries = entries
        self.to: dict[str, list[FileEntry]] = defaultdict(list)
        for entry in entries:
            self.to[entry.digest].append(entry)

    def write(self, digest: str, size: int, chunks: Iterable[memoryview]) -> None:
        self._staging.result().write(digest, size, chunks, self.to[digest])

    def install(self, tree_path: str) -> None:
        install(self._staging.result().path, tree_path)


class Mover:
    """Moves `entries` into one tree and counts: bytes as stored, bytes written, requests.

    What a direct load needs (`model`, and the C++ libraries beside it) is fetched and installed
    first where there is more than that to fetch: an engine that cannot wait for the rest starts
    warm all the same.
    """

    def __init__(
        self,
        site: Site,
        namespace: str,
        manifests: Sequence[Manifest],
        entries: Sequence[FileEntry],
        installing: Callable[[Sequence[FileEntry]], None] = lambda entries: None,  # noqa: ARG005
    ) -> None:
        """installing: is told what is about to be installed."""
        self._site = site
        self._installing = installing
        self._namespace = namespace
        self._entries = entries
        self.moved = self.written = self.requests = self._total = 0
        self._half = False  # what is urgent is installed, the rest is not
        self._lock = threading.Lock()
        self._places = Places()
        for manifest in manifests:
            self._places.add_manifest(manifest)

    def move(self, state: TreeState, tree_path: str) -> None:
        """The caller holds the tree's lock. While staging exists, the pull has not ended."""
        self.written = sum(entry.size for entry in self._entries)
        make_directories(os.path.dirname(tree_path))
        free = shutil.disk_usage(os.path.dirname(tree_path)).free
        needed = sum(most_bytes(e.size, e.path, e.relocate, tree_path) for e in self._entries)
        if free < needed:
            raise LocalError(
                f"{tree_path} needs {needed} bytes and its disk has {free}: nothing was written; "
                "free some space"
            )
        fetcher = Fetcher(
            self._site.store,
            self._namespace,
            self._places,
            self._count,
            near=lambda digest: self._near(state, tree_path, digest),
        )
        empty = {e.digest for e in self._entries if e.digest not in self._places.by_digest}
        jobs = fetcher.plan({e.digest: None for e in self._entries if e.digest not in empty})
        self._total = sum(job.stored for job in jobs)
        self._site.progress.step(
            f"fetching {self._total} bytes of {len({job.pack for job in jobs})} packs"
        )
        split = _urgent_and_rest(self._entries)
        urgent = {entry.digest for entry in split[0]}
        now = [job for job in jobs if any(digest in urgent for digest, _, _ in job.blobs)]
        later = [job for job in jobs if job not in now]
        two = bool(now and later)
        try:
            # One thread: which makes what the first bytes need first, and is done when they come.
            with ThreadPoolExecutor(1, thread_name_prefix="aotcache-staging") as making:
                stages = list(_stages(state.staging, tree_path, split, making, two=two))

                def done(batch: int) -> None:
                    self._install(stages[batch], tree_path)
                    self._half = two

                _write_empty(stages, empty)
                fetcher.run([now, later] if two else [jobs], _consumer(stages), done)
        except BaseException:
            discard(state.staging)
            if self._half:
                make_directories(state.staging)
            raise
        discard(state.staging)

    def _near(self, state: TreeState, tree_path: str, digest: str) -> bytes | None:
        """A `model` that another rank of this node has pulled: this one's is compressed against
        it, perhaps, and need not bring it again."""
        for target in state.targets():
            for data in state.remembered(target).values():
                try:
                    files = decode_manifest(data).statement.files
                except FormatError:
                    continue
                for entry in files:
                    if entry.digest == digest and entry.relocate == NOT_RELOCATED:
                        with suppress(OSError):
                            return read_bytes(os.path.join(tree_path, entry.path))
        return None

    def _install(self, stage: _Stage, tree_path: str) -> None:
        self._site.progress.step(f"installing {len(stage.entries)} files into {tree_path}")
        self._installing(stage.entries)
        stage.install(tree_path)

    def _count(self, stored: int) -> None:
        with self._lock:
            self.moved += stored
            self.requests += 1
            self._site.progress.moved(self.moved, self._total)


def _stages(
    path: str, tree_path: str, split: Sequence[list[FileEntry]], making: Executor, *, two: bool
) -> Iterator[_Stage]:
    """One for each batch. A frame that holds both kinds is read once: the other files wait in their
    own stage, as those of one directory have to appear together."""
    if not two:
        yield _Stage(path, tree_path, [entry for entries in split for entry in entries], making)
        return
    for name, entries in zip(("first", "rest"), split, strict=True):
        yield _Stage(os.path.join(path, name), tree_path, entries, making)


def _consumer(stages: Sequence[_Stage]) -> Consume:
    def consume(digest: str, size: int, chunks: Iterable[memoryview]) -> None:
        taking = [stage for stage in stages if digest in stage.to]
        if len(taking) > 1:  # the same bytes under two names
            chunks = [memoryview(b"".join(chunks))]
        for stage in taking:
            stage.write(digest, size, chunks)

    return consume


def _write_empty(stages: Sequence[_Stage], digests: Iterable[str]) -> None:
    """Files of no bytes, which lie in no pack."""
    for digest in digests:
        _consumer(stages)(digest, 0, ())


def _urgent_and_rest(entries: Sequence[FileEntry]) -> tuple[list[FileEntry], list[FileEntry]]:
    split: tuple[list[FileEntry], list[FileEntry]] = ([], [])
    for entry in entries:
        split[not _is_urgent(entry)].append(entry)
    return split


def _is_urgent(entry: FileEntry) -> bool:
    """Triton's libraries are not: they lie in its `{KEY}` directories, which appear whole."""
    if not entry.path.endswith((".so", "model")):
        return False
    if entry.path.endswith(".so"):
        return not {"triton", "triton_cache"} & set(entry.path.split("/"))
    return basename(entry.path) == "model"
