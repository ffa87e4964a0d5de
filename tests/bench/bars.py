"""What is to be reached: the bars, and how a result is held against one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.lookups import FEW, LATENCY, LOOKUP, MANY, PAGE, POSTGRESQL, RATE, SQLITE, trees_of
from bench.memory import PUBLISH, PULL
from bench.pages import PAGES
from bench.peers import AWS, CP, RCLONE, S3FS, S5CMD, TAR, WALK
from bench.servers import DIRECT, PRESIGNED, SERVICE, distance
from bench.sizes import (
    ADDED,
    FULL,
    GROWTH,
    MOVED,
    NEIGHBOURS,
    NEW,
    RANK,
    STORE,
    STORED,
    TAR_BYTES,
    UNIQUE,
    UPLOADED,
)
from bench.speed import AGAIN, FAR, FIRST, pull_of
from bench.starts import COMPILE, FRESH, HOOKS, IMPORT, SECOND, THERE
from bench.watching import CPU, WATCHES
from bench.work import EIGHT, QWEN, TINY

WAYS = (SERVICE, PRESIGNED, DIRECT)
NEAR_PULL, FAR_PULL = pull_of(EIGHT, distance(0)), pull_of(EIGHT, distance(FAR))
FASTER, AT_MOST, AT_LEAST = "faster", "at most", "at least"


@dataclass(frozen=True, slots=True)
class Bar:
    """kind: FASTER, theirs divided by ours, at least; AT_MOST, AT_LEAST, ours, divided by theirs
    where there is a theirs."""

    what: str
    ours: str
    theirs: str
    kind: str
    bar: float


@dataclass(frozen=True, slots=True)
class Held:
    """A bar with the values it was held against; `theirs` is None where there is none."""

    bar: Bar
    ours: float
    theirs: float | None

    @property
    def value(self) -> float:
        if self.theirs is None:
            return self.ours
        return self.theirs / self.ours if self.bar.kind == FASTER else self.ours / self.theirs

    @property
    def reached(self) -> bool:
        if self.bar.kind == AT_MOST:
            return self.value <= self.bar.bar
        return self.value >= self.bar.bar


def _bars() -> Iterator[Bar]:
    for what, bars in (
        (NEAR_PULL, ((AWS, 40), (S3FS, 25), (RCLONE, 8), (S5CMD, 7), (TAR, 2))),
        (FAR_PULL, ((AWS, 60), (S3FS, 35), (RCLONE, 8), (S5CMD, 7))),
        (FIRST, ((AWS, 30), (S5CMD, 7))),
    ):
        for theirs, bar in bars:
            for way in WAYS:
                yield Bar(what, way, theirs, FASTER, bar)
    for way in WAYS:
        yield Bar(NEAR_PULL, way, CP, AT_MOST, 1)
    for way in WAYS:
        yield Bar(AGAIN, way, WALK, AT_MOST, 2)
    yield Bar(GROWTH, UPLOADED, NEW, AT_MOST, 1.2)
    yield Bar(NEIGHBOURS, ADDED, FULL, AT_MOST, 0.15)
    yield Bar(STORE, STORED, TAR_BYTES, AT_MOST, 0.5)
    yield Bar(RANK, MOVED, UNIQUE, AT_MOST, 1.3)
    yield Bar(COMPILE, FRESH, SECOND, AT_MOST, 1.3)
    yield Bar(HOOKS, THERE, "", AT_MOST, 10)
    yield Bar(IMPORT, "aotcache", "", AT_MOST, 50)
    yield Bar(RATE, "aotcache", "", AT_LEAST, 2000)
    yield Bar(LATENCY, "p99", "", AT_MOST, 25)
    for database in (SQLITE, POSTGRESQL):
        for what in (LOOKUP, PAGE):
            yield Bar(f"{what}, {database}", trees_of(MANY), trees_of(FEW), AT_MOST, 1.3)
    for what in PAGES:
        yield Bar(what, "worst", "", AT_MOST, 100)
    for what in (PULL, PUBLISH):
        for way in WAYS:
            for tree in (QWEN, TINY, EIGHT):
                yield Bar(what, f"{way}, {tree}", "", AT_MOST, 256)
    yield Bar(CPU, "aotcache watch", "", AT_MOST, 1)
    yield Bar(WATCHES, "aotcache watch", "", AT_MOST, 1000)


BARS = tuple(_bars())


def held(data: dict[str, Any]) -> list[Held]:
    """Every bar for which both values were found."""
    values = medians(data)
    found = []
    for bar in BARS:
        by_who = values.get(bar.what, {})
        if bar.ours in by_who and (not bar.theirs or bar.theirs in by_who):
            theirs = by_who[bar.theirs] if bar.theirs else None
            found.append(Held(bar, by_who[bar.ours], theirs))
    return found


def medians(data: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By what and who: the median of seconds, or the number itself."""
    found: dict[str, dict[str, float]] = {}
    for part in data["parts"].values():
        for what, contestants in part["runs"].items():
            found[what] = {
                who: median(sample["seconds"] for sample in samples)
                for who, samples in contestants.items()
            }
        found |= part["numbers"]
    return found
