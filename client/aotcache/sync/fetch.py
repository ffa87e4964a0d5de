"""Fetch: blobs out of packs, by ranges, several at once."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import closing, suppress

import msgspec
from blake3 import blake3

from aotcache.core.framing import Prefix, digest_of
from aotcache.core.pack import decompress
from aotcache.core.places import Job, PlacedFrame, Places, plan_jobs
from aotcache.errors import PackError
from aotcache.protocol.manifest import MAX_FRAME
from aotcache.protocol.names import pack_key
from aotcache.storage import ObjectStore
from aotcache.sync.prefixes import Prefixes

_CONNECTIONS = 8
# Bytes after which a job is closed: as stored, so that connections share what has to come, and as
# written, so that processors share what has to be done with it.
_STORED_JOB, _RAW_JOB = 4 << 20, 16 << 20
_RANGE = 8 << 20  # stored bytes of one request at most, unless a frame is larger

Consume = Callable[[str, int, Iterable[memoryview]], None]


class Fetcher:
    """Reads blobs at known places in one namespace.

    moved: called with the stored bytes of each range that came, from any thread. near: what lies
    on this disk perhaps; asked for what others are compressed against, and verified.
    """

    def __init__(
        self,
        store: ObjectStore,
        namespace: str,
        places: Places,
        moved: Callable[[int], None],
        near: Callable[[str], bytes | None] = lambda digest: None,  # noqa: ARG005
    ) -> None:
        self._store = store
        self._namespace = namespace
        self._places = places
        self._moved = moved
        self._near = near
        self._prefixes = Prefixes()

    def plan(self, digests: Iterable[str]) -> list[Job]:
        return plan_jobs(self._places, digests, _STORED_JOB, _RAW_JOB)

    def run(
        self,
        batches: Sequence[Sequence[Job]],
        consume: Consume,
        done: Callable[[int], None] = lambda batch: None,  # noqa: ARG005
    ) -> None:
        """Read all blobs of the jobs, batch after batch: one is begun when the bytes of the one
        before have come. `consume(digest, size, chunks)` is called from several threads, once a
        blob, takes all chunks and verifies them; `done(number)` from the caller's, when all of a
        batch is consumed. The first error ends the run and is raised."""
        wanted = {digest for jobs in batches for job in jobs for digest, _, _ in job.blobs}
        for jobs in batches:
            self._prefixes.need(_needs(jobs))
        tasks = [self._tasks(jobs, consume, wanted) for jobs in batches]
        packs = {task.job.pack for batch in tasks for task in batch}
        self._store.expect(pack_key(self._namespace, pack) for pack in packs)
        threads = len(batches) * _CONNECTIONS
        with ThreadPoolExecutor(threads, thread_name_prefix="aotcache-fetch") as pool:
            try:
                before: list[Future[None]] = []
                for number, batch in enumerate(tasks):
                    for task in batch:
                        for digest in task.gives:
                            self._prefixes.promise(digest)
                    futures = [pool.submit(self._run_task, task) for task in batch]
                    if number:
                        _wait(before)
                        done(number - 1)
                    _wait([task.arrived for task in batch])
                    before = futures
                _wait(before)
                done(len(batches) - 1)
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                self._prefixes.fail(error)
                raise

    def _tasks(self, jobs: Sequence[Job], consume: Consume, wanted: set[str]) -> list[_Task]:
        """What gives prefixes comes first, as others wait for it; then the largest, so that none is
        left to run alone at the end. wanted: all that is read in any batch."""
        # More threads at work than there are processors get in each other's way. Those of a batch
        # wait for each other: many small files wait for system calls, and not behind large ones.
        at_work = threading.Semaphore(os.cpu_count() or 2)
        tasks = [_Task(job, consume, frozenset(self._given(job)), at_work) for job in jobs]
        for job in self._beside(jobs, wanted):
            gives = frozenset(digest for digest, _, _ in job.blobs)
            tasks.append(_Task(job, _verify, gives, at_work))
            wanted |= gives  # a later batch need not read it again
        return sorted(tasks, key=lambda task: (not task.gives, -task.job.stored))

    def _beside(self, jobs: Sequence[Job], wanted: set[str]) -> list[Job]:
        """To read the prefixes that are not wanted themselves and that this disk does not have:
        together, as they often lie in one frame."""
        lacking = []
        for digest in dict.fromkeys(_needs(jobs)):
            if digest in wanted or self._prefixes.is_promised(digest):
                continue
            near = self._near(digest)
            prefix = Prefix(near) if near is not None else None
            if prefix is not None and prefix.digest == digest:
                self._prefixes.promise(digest)
                self._prefixes.give(prefix)
            elif digest in self._places.by_digest:
                lacking.append(digest)
        found = self.plan(lacking)
        for job in found:
            if any(placed.frame.prefix for placed in job.frames):
                raise PackError(f"a prefix in pack {job.pack[:12]} needs a prefix itself")
        return found

    def _given(self, job: Job) -> Iterator[str]:
        """The prefixes that a job reads before it may have to wait for one itself."""
        waits = next((placed.raw_at for placed in job.frames if placed.frame.prefix), None)
        for digest, offset, size in job.blobs:
            first = waits is None or offset + size <= waits
            if first and size <= MAX_FRAME and self._prefixes.is_needed(digest):
                yield digest

    def read(self, digest: str) -> bytes:
        """One whole blob, verified; at most MAX_FRAME bytes, as it serves as a prefix."""
        if digest not in self._places.by_digest:
            raise PackError(f"a frame needs prefix {digest[:12]}, which has no place")
        if self._places.by_digest[digest].size > MAX_FRAME:
            raise PackError(f"blob {digest[:12]} is too large to be a prefix")
        found: list[bytes] = []

        def keep(_digest: str, _size: int, chunks: Iterable[memoryview]) -> None:
            found.append(b"".join(chunks))

        for job in self.plan([digest]):
            if any(placed.frame.prefix for placed in job.frames):
                raise PackError(f"prefix {digest[:12]} needs a prefix itself")
            self._read(_Task(job, keep, frozenset(), threading.Semaphore()))
        if digest_of(found[0]) != digest:
            raise PackError(f"the bytes of prefix {digest[:12]} are not those its manifest names")
        return found[0]

    def _run_task(self, task: _Task) -> None:
        try:
            self._read(task)
        except BaseException as error:
            with suppress(InvalidStateError):
                task.arrived.set_exception(error)
            raise

    def _read(self, task: _Task) -> None:
        with closing(self._pieces(task)) as pieces:
            cutter = _Cutter(pieces)
            for digest, offset, size in task.job.blobs:
                chunks = cutter.cut(offset, offset + size)
                if digest not in task.gives:
                    task.consume(digest, size, chunks)
                    continue
                whole = mmap.mmap(-1, size)  # which nobody fills with zeros first
                task.consume(digest, size, _copied(chunks, whole))
                self._prefixes.give(Prefix(whole, digest))

    def _pieces(self, task: _Task) -> Generator[tuple[int, bytes]]:
        """The job's decompressed bytes, in order, each piece with where it lies in its pack."""
        key = pack_key(self._namespace, task.job.pack)
        runs = list(_runs(task.job.frames))
        for number, run in enumerate(runs, 1):
            start, end = run[0].at, run[-1].at + run[-1].frame.stored
            data = memoryview(self._store.get_range(key, start, end))
            self._moved(len(data))
            if number == len(runs):
                task.arrived.set_result(None)
            for placed in run:
                stored = data[placed.at - start : placed.at - start + placed.frame.stored]
                wanted = placed.frame.prefix
                prefix = (
                    self._prefixes.get(wanted, lambda digest: Prefix(self.read(digest), digest))
                    if wanted
                    else None
                )
                at = placed.raw_at
                with task.at_work:
                    for piece in decompress(stored, placed.frame, prefix):
                        yield at, piece
                        at += len(piece)
                if wanted:
                    self._prefixes.used(wanted)


class _Task(msgspec.Struct, frozen=True):
    """gives: prefixes that others wait for. at_work: to be held while frames are read. arrived: all
    its bytes have come."""

    job: Job
    consume: Consume
    gives: frozenset[str]
    at_work: threading.Semaphore
    arrived: Future[None] = msgspec.field(default_factory=Future)


def _verify(digest: str, _size: int, chunks: Iterable[memoryview]) -> None:
    hasher = blake3()
    for chunk in chunks:
        hasher.update(chunk)
    if hasher.hexdigest() != digest:
        raise PackError(f"prefix {digest[:12]} has other bytes than its manifest names")


class _Cutter:
    """Cuts blobs out of pieces that come one after the other."""

    def __init__(self, pieces: Iterator[tuple[int, bytes]]) -> None:
        self._pieces = pieces
        self._at, self._piece = 0, memoryview(b"")

    def cut(self, start: int, end: int) -> Iterator[memoryview]:
        """The bytes [start, end) of the pack; not before those of the last call."""
        while start < end:
            while start >= self._at + len(self._piece):
                self._at, piece = next(self._pieces)
                self._piece = memoryview(piece)
            chunk = self._piece[start - self._at : end - self._at]
            start += len(chunk)
            yield chunk


def _copied(chunks: Iterable[memoryview], into: mmap.mmap) -> Iterator[memoryview]:
    at = 0
    for chunk in chunks:
        into[at : at + len(chunk)] = chunk
        at += len(chunk)
        yield chunk


def _needs(jobs: Sequence[Job]) -> Iterator[str]:
    for job in jobs:
        for placed in job.frames:
            if placed.frame.prefix:
                yield placed.frame.prefix


def _wait(futures: Sequence[Future[None]]) -> None:
    """Raises the first error as soon as there is one."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()


def _runs(frames: Iterable[PlacedFrame]) -> Iterator[list[PlacedFrame]]:
    """Neighbouring frames that are read by one request."""
    run: list[PlacedFrame] = []
    for placed in frames:
        end = run[-1].at + run[-1].frame.stored if run else 0
        if run and (placed.at != end or end - run[0].at + placed.frame.stored > _RANGE):
            yield run
            run = []
        run.append(placed)
    if run:
        yield run
