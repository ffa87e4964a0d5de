"""What the parts of the benchmark share: trees, servers, a fresh directory on the same disk."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from aotcache.probe.trees import FoundTree
from bench.ours import AOTCACHE
from bench.servers import Line, open_line
from bench.timing import Sample, timed
from bench.work import EIGHT, platform_file, work
from support.s3 import S3Server
from support.seaweedfs import run_seaweedfs

_BEGIN = time.monotonic()
T = TypeVar("T")


@dataclass(slots=True)
class Found:
    """What a part found. runs: samples by what was done and who did it. numbers: of anything else,
    by what and who, its unit in the name of what. left_out: why a contestant does not take part.
    """

    runs: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    numbers: dict[str, dict[str, float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass
class Stage:
    """home: a fresh directory, on one disk with `work`, which holds the trees. main: the tree that
    most is measured with."""

    home: Path
    work: Path
    rounds: int
    running: ExitStack
    main: str = EIGHT
    _lines: dict[int, Line] = field(default_factory=dict)

    @cached_property
    def s3(self) -> S3Server:
        say("starting SeaweedFS")
        return self.running.enter_context(run_seaweedfs())

    def line(self, milliseconds: int = 0) -> Line:
        if milliseconds not in self._lines:
            line = open_line(self.running, self.home, self.s3, milliseconds)
            if not self._lines:
                timed([*AOTCACHE, "key", "generate"], line.env)  # everything is signed
            self._lines[milliseconds] = line
        return self._lines[milliseconds]

    def tree(self, name: str = "") -> FoundTree:
        return work(self.work, name or self.main)

    def root(self, name: str = "") -> Path:
        """The cache root that the tree lies in."""
        return self.work / (name or self.main)

    def platform(self, name: str = "") -> Path:
        return platform_file(self.work, name or self.main)

    def folder(self, name: str) -> Path:
        """An empty directory."""
        folder = self.home / name
        folder.mkdir(parents=True)
        return folder


def say(text: str) -> None:
    print(f"bench, {time.monotonic() - _BEGIN:.0f} s: {text}", file=sys.stderr, flush=True)


def same(wanted: T, found: T, what: str) -> None:
    """The benchmark ends where a contestant did not do its work."""
    if wanted != found:
        sys.exit(f"the benchmark does not measure what it says: {what}: {found} not {wanted}")
