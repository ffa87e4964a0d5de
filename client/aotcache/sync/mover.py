"""Move: the missing files of one pull, fetched, staged, verified and installed."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from posixpath import basename
from types import TracebackType

import msgspec

from aotcache.core.places import Job, Places
from aotcache.core.relocation import most_bytes
from aotcache.errors import FormatError, LocalError
from aotcache.local.staging import discard
from aotcache.local.state import TreeState, make_directories, read_bytes
from aotcache.protocol.manifest import (
    NOT_RELOCATED,
    FileEntry,
    Manifest,
    decode_manifest,
    encode_whole,
)
from aotcache.sync.fetch import Fetcher
from aotcache.sync.helper import Helper, HelperKilledError, Say, is_worth
from aotcache.sync.site import Site
from aotcache.sync.stages import Installing, OwnStage, Stage, consumer

logger = logging.getLogger(__name__)

_URGENT = (".so", "model")


class _Lent(msgspec.Struct, frozen=True):
    """What a helper stages: files of manifests that are accepted. missing: their paths."""

    namespace: str
    manifests: tuple[bytes, ...]
    missing: tuple[str, ...]


class _Moved(msgspec.Struct, frozen=True):
    """stored: bytes that came to a helper, of as many in `total`."""

    stored: int
    total: int


class Mover:
    """Moves files into one tree and counts: bytes as stored, bytes written, requests. The caller
    holds the tree's lock; while staging exists, the pull has not ended.

    What a direct load needs (`model`, and the C++ libraries beside it) is fetched and installed
    first where there is more than that to fetch: an engine that cannot wait for the rest starts
    warm all the same. Left with an error, nothing is staged any more, and where a pull is cut off
    in the middle, this one or one before, staging is there to say so.
    """

    def __init__(
        self,
        site: Site,
        state: TreeState,
        namespace: str,
        installing: Callable[[Sequence[FileEntry]], None] = lambda entries: None,  # noqa: ARG005
    ) -> None:
        """installing: is told what is about to be installed."""
        self._site = site
        self._state = state
        self._namespace = namespace
        self._installing = installing
        self.moved = self.written = self.requests = 0
        self._total = self._helpers_total = self._needed = self._free_before = 0
        self._lock = threading.Lock()
        self._helper: Helper | None = None
        self.lent: Stage | None = None
        self._installed: Installing | None = None
        self._begun = self._was_cut_off = False

    def __enter__(self) -> Mover:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._helper is not None:
            self._helper.stop() if error else self._helper.leave()
        if not self._begun:
            return
        discard(self._state.staging)
        if error and (self._was_cut_off or (self._installed and self._installed.half)):
            make_directories(self._state.staging)

    def find_help(self, size: int) -> bool:
        """Another process to `lend` files of so many bytes to, where that is worth it. It is forked
        now: before there are threads, as it has none of them."""
        if not is_worth(size) or not self._site.store.forkable:
            return False
        work = partial(_stage_lent, self._site, self._state)
        try:
            self._helper = Helper(work, self._site.store.prepare)
        except OSError as error:
            path = self._state.tree_path
            logger.info("%s is pulled by one process, as no other can be made: %s", path, error)
        return self._helper is not None

    def begin(self) -> None:
        """What a pull that died left is discarded."""
        if not self._begun:
            self._begun, self._was_cut_off = True, os.path.lexists(self._state.staging)
            discard(self._state.staging)

    def lend(self, manifests: Sequence[Manifest], entries: Sequence[FileEntry]) -> None:
        """Have these files, that a direct load needs, staged by the other process from now on."""
        self._make_room(entries)
        self.lent = Stage(_lent_path(self._state), entries)
        lent = _Lent(
            self._namespace,
            tuple(encode_whole(manifest) for manifest in manifests),
            tuple(entry.path for entry in entries),
        )
        assert self._helper is not None
        self._helper.tell(msgspec.json.encode(lent))

    def move(self, manifests: Sequence[Manifest], entries: Sequence[FileEntry]) -> None:
        """Stage these files, and install them and those that were lent."""
        self._make_room(entries)
        plan = _Plan(self._site, self._state, self._namespace, manifests, entries, self._count)
        self._total = sum(job.stored for job in plan.jobs)
        packs = {job.pack for job in plan.jobs}
        self._site.progress.step(f"fetching {self._total} bytes of {len(packs)} packs")
        # One thread makes what the first bytes need first, and is done when they come; one listens.
        with ThreadPoolExecutor(2, thread_name_prefix="aotcache-staging") as beside:
            try:
                self._move(plan, entries, beside)
            except BaseException:
                if self._helper is not None:
                    self._helper.stop()
                raise

    def _move(self, plan: _Plan, entries: Sequence[FileEntry], beside: Executor) -> None:
        urgent, rest = _urgent_and_rest(entries)
        digests = {entry.digest for entry in urgent}
        now = [job for job in plan.jobs if any(digest in digests for digest, _, _ in job.blobs)]
        later = [job for job in plan.jobs if job not in now]
        # A frame that holds both kinds is read once: the other files wait in their own stage, as
        # those of one directory have to appear together.
        split = {"first": urgent, "rest": rest} if now and later else {"all": entries}
        path, tree_path = self._state.staging, self._state.tree_path
        own = [
            OwnStage(os.path.join(path, name), tree_path, part, beside)
            for name, part in split.items()
        ]
        stages: list[Stage] = list(own)
        if self.lent is not None:
            # Not before the libraries: who finds a `model` looks for them.
            stages.insert(1 if now else 0, self.lent)
        self._installed = installed = Installing(tree_path, stages, self._tell)
        lent = beside.submit(self._wait_for_helper, installed)

        def done(batch: int) -> None:
            if lent.done():
                lent.result()  # who failed need not be waited for
            own[batch].wait()
            installed.staged(own[batch])

        plan.run([now, later] if len(own) > 1 else [plan.jobs], own, done)
        lent.result()

    def _wait_for_helper(self, installed: Installing) -> None:
        if self._helper is not None and self.lent is not None:
            try:
                self._helper.listen(self._heard)
            except HelperKilledError as error:
                raise LocalError(
                    f"the process that helps to pull {self._state.tree_path} was killed, perhaps "
                    "as memory ran out: what it was at is not installed; pull again"
                ) from error
            installed.staged(self.lent)

    def _make_room(self, entries: Sequence[FileEntry]) -> None:
        """Where there is too little, nothing is written: of what was lent, nothing is left."""
        path = self._state.tree_path
        if not self._free_before:
            make_directories(os.path.dirname(path))
            self._free_before = shutil.disk_usage(os.path.dirname(path)).free
        self.written += sum(entry.size for entry in entries)
        self._needed += sum(entry.size for entry in entries if entry.relocate == NOT_RELOCATED)
        moved = (entry for entry in entries if entry.relocate != NOT_RELOCATED)
        self._needed += sum(most_bytes(e.size, e.path, e.relocate, path) for e in moved)
        if self._free_before < self._needed:
            raise LocalError(
                f"{path} needs {self._needed} bytes and its disk has {self._free_before}: nothing "
                "was written; free some space"
            )

    def _tell(self, stage: Stage) -> None:
        path = self._state.tree_path
        self._site.progress.step(f"installing {len(stage.entries)} files into {path}")
        self._installing(stage.entries)

    def _count(self, stored: int) -> None:
        with self._lock:
            self.moved += stored
            self.requests += 1
            self._site.progress.moved(self.moved, self._total + self._helpers_total)

    def _heard(self, said: msgspec.Raw) -> None:
        moved = msgspec.json.decode(said, type=_Moved)
        self._helpers_total = moved.total
        self._count(moved.stored)


class _Plan:
    """What is read for these files, and from where."""

    def __init__(
        self,
        site: Site,
        state: TreeState,
        namespace: str,
        manifests: Iterable[Manifest],
        entries: Sequence[FileEntry],
        moved: Callable[[int], None],
    ) -> None:
        places = Places()
        for manifest in manifests:
            places.add_manifest(manifest)
        self._fetcher = Fetcher(site.store, namespace, places, moved, near=partial(_near, state))
        digests = dict.fromkeys(entry.digest for entry in entries)
        self._empty = [digest for digest in digests if digest not in places.by_digest]
        self.jobs = self._fetcher.plan(digest for digest in digests if digest in places.by_digest)

    def run(
        self,
        batches: Sequence[Sequence[Job]],
        stages: Sequence[OwnStage],
        done: Callable[[int], None] = lambda batch: None,  # noqa: ARG005
    ) -> None:
        consume = consumer(stages)
        try:
            for digest in self._empty:  # files of no bytes, which lie in no pack
                consume(digest, 0, ())
            self._fetcher.run(batches, consume, done)
        finally:
            for stage in stages:
                stage.close()


def _stage_lent(site: Site, state: TreeState, told: bytes, say: Say) -> object:
    """What the other process does. Returns all that it holds."""
    lent = msgspec.json.decode(told, type=_Lent)
    manifests = [decode_manifest(data) for data in lent.manifests]
    missing = set(lent.missing)
    entries = [e for found in manifests for e in found.statement.files if e.path in missing]

    def moved(stored: int) -> None:
        say(_Moved(stored, total))

    plan = _Plan(site, state, lent.namespace, manifests, entries, moved)
    total = sum(job.stored for job in plan.jobs)
    with ThreadPoolExecutor(1, thread_name_prefix="aotcache-staging") as making:
        stage = OwnStage(_lent_path(state), state.tree_path, entries, making)
        plan.run([plan.jobs], [stage])
    return plan


def _lent_path(state: TreeState) -> str:
    return os.path.join(state.staging, "lent")


def _near(state: TreeState, digest: str) -> bytes | None:
    """A `model` that another rank of this node has pulled: this one's is compressed against it,
    perhaps, and need not bring it again."""
    for target in state.targets():
        for data in state.remembered(target).values():
            try:
                files = decode_manifest(data).statement.files
            except FormatError:
                continue
            for entry in files:
                if entry.digest == digest and entry.relocate == NOT_RELOCATED:
                    with suppress(OSError):
                        return read_bytes(os.path.join(state.tree_path, entry.path))
    return None


def _urgent_and_rest(entries: Sequence[FileEntry]) -> tuple[list[FileEntry], list[FileEntry]]:
    urgent = [entry for entry in entries if entry.path.endswith(_URGENT) and _is_urgent(entry)]
    paths = {entry.path for entry in urgent}
    return urgent, [entry for entry in entries if entry.path not in paths]


def _is_urgent(entry: FileEntry) -> bool:
    """Triton's libraries are not: they lie in its `{KEY}` directories, which appear whole."""
    if entry.path.endswith(".so"):
        return not {"triton", "triton_cache"} & set(entry.path.split("/"))
    return basename(entry.path) == "model"
