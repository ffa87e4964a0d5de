"""A fleet of any size as a discrete-event model: the calls of `fleet.node`, and their costs.

Deterministic: starts are drawn from a seed, everything else follows. What it leaves out: failures,
retries, the network's delay, and what a node does by itself other than compile and unpack.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from fleet.plan import COMPILED, HIT, WAITED, Job

# Calls that are answered inside the writers' lock, or write once they know the answer.
WRITES = {"outcome": 1, "explain": 1, "granted": 2, "kept": 1, "publish": 2}
HELD_POLL = 20.0  # seconds of one question of who waits (sync/leases.py)
BEAT = 20.0  # seconds between two questions of who compiles

Steps = Generator[Any, Any, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Nodes, and the service that they ask. jobs: their starts. service_ms: processor time of each
    call. write_seconds: for which nobody else writes. pull_bytes, pull_gets: of S3, a node.
    pull_seconds: of a node's own work; publish_seconds: from a compile's end to the commit. wait:
    AOTCACHE_WAIT. stored: names of what is there. neighbours: of
    each publish, against which it compresses."""

    jobs: tuple[Job, ...]
    replicas: int
    service_ms: dict[str, float]
    write_seconds: float
    compile_seconds: float
    wait: float
    pull_bytes: int
    pull_gets: int = 1
    pull_seconds: float = 0.1
    publish_seconds: float = 1.0
    stored: tuple[str, ...] = ()
    neighbours: int = 0


@dataclass(slots=True)
class Happened:
    """calls: by kind. ended: starts by how. warm, lookups: seconds. gets, puts, bytes: of S3, in
    each second. busy: seconds of all replicas. writing: seconds in which somebody wrote."""

    calls: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    warm: list[float] = field(default_factory=list)
    lookups: list[float] = field(default_factory=list)
    gets: Counter[int] = field(default_factory=Counter)
    puts: Counter[int] = field(default_factory=Counter)
    bytes: Counter[int] = field(default_factory=Counter)
    asked: Counter[int] = field(default_factory=Counter)
    writes: Counter[int] = field(default_factory=Counter)
    busy: float = 0.0
    writing: float = 0.0
    seconds: float = 0.0


def happen(region: Region) -> Happened:
    """All starts of a region, to the last one's end."""
    return _Model(region).run()


# What the service counts, by what the model calls it.
ROUTES = {
    "POST /v1/recipes/lookup": ("recipe",),
    "POST /v1/lookup": ("lookup", "miss"),
    "GET /v1/objects/{key:path}": ("manifest",),
    "POST /v1/presign": ("presign", "publish"),
    "POST /v1/outcomes": ("outcome",),
    "POST /v1/explain": ("explain",),
    "POST /v1/publish": ("publish",),
    "POST /v1/publish/{publish_id}/commit": ("publish",),
    "POST /v1/leases": ("granted", "kept", "held"),
}
KINDS = tuple(dict.fromkeys(kind for kinds in ROUTES.values() for kind in kinds))
MANIFESTS = 2  # a shared part and a rank's


def requests(happened: Happened) -> dict[str, int]:
    """To the service, by route."""
    return {route: sum(happened.calls[kind] for kind in kinds) for route, kinds in ROUTES.items()}


class _Model:
    def __init__(self, region: Region) -> None:
        self._region = region
        self._env = simpy.Environment()
        self._service = simpy.Resource(self._env, capacity=region.replicas)
        self._writer = simpy.Resource(self._env, capacity=1)
        self._stored = {(name, "") for name in region.stored}
        self._over: dict[str, simpy.Event] = {}  # of leases that are held
        self._said = Happened()

    def run(self) -> Happened:
        for job in self._region.jobs:
            self._env.process(self._start(job))
        self._env.run()
        self._said.seconds = self._env.now
        return self._said

    def _start(self, job: Job) -> Steps:
        yield self._env.timeout(job.at)
        begin = self._env.now
        yield from self._lookup("recipe")
        if self._is_stored(job):
            yield from self._pull(begin, HIT)
            return
        yield from self._lookup("miss")
        if (yield from self._turn(job)) == WAITED:
            yield from self._pull(begin, WAITED)
            return
        yield self._env.timeout(self._region.compile_seconds)
        self._end(COMPILED, begin)
        yield from self._publish(job)

    def _is_stored(self, job: Job) -> bool:
        return (job.name, job.version) in self._stored or (job.name, "") in self._stored

    def _turn(self, job: Job) -> Generator[Any, Any, str]:
        """Whose turn it is to compile."""
        region, name = self._region, job.name
        if not region.wait:
            return COMPILED
        if self._is_stored(job):  # by now
            yield from self._call("held")
            return WAITED
        if name not in self._over:
            self._over[name] = self._env.event()
            yield from self._call("granted")
            self._env.process(self._keep(self._over[name]))
            return COMPILED
        yield from self._call("held")
        begin = self._env.now
        while name in self._over:
            if self._env.now - begin >= region.wait:
                return COMPILED
            over = self._over[name]
            yield over | self._env.timeout(min(HELD_POLL, region.wait))
            yield from self._call("held")
        return WAITED

    def _keep(self, over: simpy.Event) -> Steps:
        """Who compiles asks again now and then, until it is told that it is published."""
        while not over.processed:
            yield self._env.timeout(BEAT)
            yield from self._call("kept")

    def _publish(self, job: Job) -> Steps:
        yield from self._call("explain")
        yield self._env.timeout(self._region.publish_seconds)
        for _ in range(self._region.neighbours):
            for _ in range(MANIFESTS):
                yield from self._call("manifest")
            yield from self._call("presign")
            self._s3(gets=1)
        self._s3(puts=1)
        yield from self._call("publish")
        self._stored.add((job.name, job.version))
        over = self._over.pop(job.name, None)
        if over is not None and not over.triggered:
            over.succeed()

    def _pull(self, begin: float, how: str) -> Steps:
        yield from self._lookup("lookup")  # is answered with manifests and URLs
        self._s3(gets=self._region.pull_gets, moved=self._region.pull_bytes)
        yield self._env.timeout(self._region.pull_seconds)
        self._end(how, begin)
        yield from self._call("outcome")

    def _end(self, how: str, begin: float) -> None:
        self._said.ended[how] += 1
        self._said.warm.append(self._env.now - begin)

    def _lookup(self, kind: str) -> Steps:
        begin = self._env.now
        yield from self._call(kind)
        self._said.lookups.append(self._env.now - begin)

    def _call(self, kind: str) -> Steps:
        self._said.calls[kind] += 1
        self._said.asked[int(self._env.now)] += 1
        seconds = self._region.service_ms[kind] / 1000
        with self._service.request() as turn:
            yield turn
            yield self._env.timeout(seconds)
        self._said.busy += seconds
        for _ in range(WRITES.get(kind, 0)):
            with self._writer.request() as turn:
                yield turn
                self._said.writes[int(self._env.now)] += 1
                yield self._env.timeout(self._region.write_seconds)
            self._said.writing += self._region.write_seconds

    def _s3(self, *, gets: int = 0, puts: int = 0, moved: int = 0) -> None:
        second = int(self._env.now)
        self._said.gets[second] += gets
        self._said.puts[second] += puts
        self._said.bytes[second] += moved


def peak(by_second: Counter[int], over: int = 1) -> float:
    """The most of them in a second, on average over so many seconds in a row."""
    if not by_second:
        return 0.0
    sums: dict[int, int] = defaultdict(int)
    for second, count in by_second.items():
        for begin in range(second - over + 1, second + 1):
            sums[begin] += count
    return max(sums.values()) / over


def at(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def numbered(jobs: Sequence[Job], copies: int) -> tuple[Job, ...]:
    """The same starts so many times, each node with a number of its own."""
    count = itertools.count()
    return tuple(
        Job(node=next(count), at=job.at, name=job.name, model=job.model, version=job.version)
        for _ in range(copies)
        for job in jobs
    )
