"""Fetch: blobs out of packs, by ranges, several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from aotcache.core.pack import decompress, digest_of
from aotcache.core.places import Job, PlacedFrame, Places, plan_jobs
from aotcache.errors import PackError
from aotcache.protocol.manifest import MAX_FRAME
from aotcache.protocol.names import pack_key
from aotcache.storage import ObjectStore

_CONNECTIONS = 8
_JOB = 4 << 20  # stored bytes after which a job is closed
_RANGE = 8 << 20  # stored bytes of one request at most, unless a frame is larger

Consume = Callable[[str, int, Iterator[bytes]], None]


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
        self._prefixes: dict[str, bytes] = {}
        self._prefix_lock = threading.Lock()

    def plan(self, digests: Iterable[str]) -> list[Job]:
        return plan_jobs(self._places, digests, _JOB)

    def run(self, jobs: list[Job], consume: Consume) -> None:
        """Read all blobs of the jobs. `consume(digest, size, chunks)` is called from several
        threads, once a blob, takes all chunks and verifies them. The first error ends the run and
        is raised."""
        prefixes = {placed.frame.prefix for job in jobs for placed in job.frames}

        def keep(digest: str, size: int, chunks: Iterator[bytes]) -> None:
            if digest not in prefixes or size > MAX_FRAME:
                consume(digest, size, chunks)
                return
            data = b"".join(chunks)
            consume(digest, size, iter([data]))
            with self._prefix_lock:
                self._prefixes = {digest: data}

        # What others are compressed against comes before them, so that it is read once.
        first: list[Job] = []
        second: list[Job] = []
        for job in jobs:
            gives = any(digest in prefixes for digest, _, _ in job.blobs)
            needs = any(placed.frame.prefix for placed in job.frames)
            (first if gives or not needs else second).append(job)
        self._run_all(first, keep)
        self._run_all(second, keep)

    def _run_all(self, jobs: list[Job], consume: Consume) -> None:
        with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="aotcache-fetch") as pool:
            # The largest first, so that none is left to run alone at the end.
            ordered = sorted(jobs, key=lambda job: -job.stored)
            futures = [pool.submit(self._run_job, job, consume) for job in ordered]
            done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
            for future in waiting:
                future.cancel()
            for future in done:
                future.result()

    def read(self, digest: str) -> bytes:
        """One whole blob, verified; at most MAX_FRAME bytes, as it serves as a prefix."""
        if self._places.by_digest[digest].size > MAX_FRAME:
            raise PackError(f"blob {digest[:12]} is too large to be a prefix")
        found: list[bytes] = []
        for job in self.plan([digest]):
            if any(placed.frame.prefix for placed in job.frames):
                raise PackError(f"prefix {digest[:12]} needs a prefix itself")
            self._run_job(job, lambda _digest, _size, chunks: found.append(b"".join(chunks)))
        if digest_of(found[0]) != digest:
            raise PackError(f"the bytes of prefix {digest[:12]} are not those its manifest names")
        return found[0]

    def _prefix(self, digest: str) -> bytes:
        with self._prefix_lock:  # ranks share a prefix: one reads it, the others wait for it
            if digest not in self._prefixes:
                if digest not in self._places.by_digest:
                    raise PackError(f"a frame needs prefix {digest[:12]}, which has no place")
                found = self._near(digest)
                if found is None or digest_of(found) != digest:
                    found = self.read(digest)
                self._prefixes = {digest: found}
            return self._prefixes[digest]

    def _run_job(self, job: Job, consume: Consume) -> None:
        frames = self._frames(job)
        placed, raw = next(frames)
        for digest, offset, size in job.blobs:

            def chunks(start: int = offset, end: int = offset + size) -> Iterator[bytes]:
                nonlocal placed, raw
                while start < end:
                    while start >= placed.raw_at + placed.frame.raw:
                        placed, raw = next(frames)
                    chunk = raw[start - placed.raw_at : end - placed.raw_at]
                    start += len(chunk)
                    yield chunk

            consume(digest, size, chunks())

    def _frames(self, job: Job) -> Iterator[tuple[PlacedFrame, bytes]]:
        key = pack_key(self._namespace, job.pack)
        for run in _runs(job.frames):
            start, end = run[0].at, run[-1].at + run[-1].frame.stored
            data = memoryview(self._store.get_range(key, start, end))
            self._moved(len(data))
            for placed in run:
                stored = data[placed.at - start : placed.at - start + placed.frame.stored]
                prefix = self._prefix(placed.frame.prefix) if placed.frame.prefix else None
                yield placed, decompress(stored, placed.frame, prefix)


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
