"""What tests of faults measured, for docs/faults.md (`make faults`): `table`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.faults import Done

WHERE = "AOTCACHE_FAULTS"  # the file whose table is written anew
BEGIN, END = "<!-- begin: make faults -->\n", "<!-- end: make faults -->\n"
HEAD = "| fault | what nodes saw | lost | normal again after |\n|---|---|---|---|\n"
# What is another in each run.
_OWN = (
    (r"\S*/(?:packs|trees|marks)/[^\s:;,]*", "OBJECT"),
    (r"/(?:tmp|dev)/[^\s:;,]*", "DIR"),
    (r"https?://[\d.]+:\d+", "URL"),
    (r"\(request [0-9a-f]+-\d+\)", "(request ID)"),
    (r"[0-9a-f]{64}", "HASH"),
    (r"^\S+ \S+ aotcache (?:INFO|WARNING) |^aotcache: ", ""),
    (r"\|", r"\\|"),
)
# What a program is told that starts all the same.
_WITHOUT = ("is not used", "starting without it")


@dataclass
class Table:
    rows: list[str] = field(default_factory=list)

    def row(self, fault: str, seen: str | Done, seconds: float) -> None:
        """After all was found to be as before: so the third column says `nothing`. seen: of a
        process its exit code and last line."""
        shown = seen if isinstance(seen, str) else said(seen)
        self.rows.append(f"| {fault} | {shown} | nothing | {_rounded(seconds)} |")


def said(done: Done) -> str:
    (last, *_) = [*reversed(done.stderr.splitlines()), ""]
    for own, shown in _OWN:
        last = re.sub(own, shown, last)
    told = done.returncode or any(words in last for words in _WITHOUT)
    return f"exit {done.returncode}" + (f": {last}" if told else "")


def _rounded(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


_TABLE = pytest.StashKey[Table]()


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Table:
    return request.config.stash.setdefault(_TABLE, Table())


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    found = session.config.stash.get(_TABLE, None)
    where = os.environ.get(WHERE)
    if where and found and exitstatus == 0:
        file = Path(where)
        before, _, rest = file.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        rows = "".join(f"{row}\n" for row in found.rows)
        cores, load = os.cpu_count(), os.getloadavg()[1]
        busy = f"\nMeasured on {cores} cores with a load of {load:.0f}.\n"
        file.write_text(before + BEGIN + HEAD + rows + busy + END + after)
    return (yield)
