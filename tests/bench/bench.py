"""Run all of it: the work is made, the servers run, everybody takes turns. `make bench`.

    python -m bench.bench [--work DIR] [--only PART,…] [--rounds N] [--keep]

One machine and one run, so only ratios mean something: client, service and S3 server share its
cores. A full run writes docs/benchmarks.json and what is made of it; with --only the parts are
printed, and with --keep as well they replace the same parts of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import page, plots, report, speed
from bench.lookups import lookups, many_trees
from bench.machine import commit, fill_memory, load, machine, versions
from bench.memory import memory
from bench.pages import pages
from bench.sizes import neighbour, sizes
from bench.stage import Found, Stage, say
from bench.starts import idle, starts
from bench.watching import watching
from bench.work import EIGHT, files_below
from bench.work import work as make

ROUNDS = 5
WORK = Path(tempfile.gettempdir()) / "aotcache-bench"

PARTS: dict[str, Callable[[Stage], Found]] = {
    "pull": speed.pull,
    "publish": speed.publish,
    "sizes": sizes,
    "memory": memory,
    "lookups": lookups,
    "many-trees": many_trees,
    "pages": pages,
    "watching": watching,
    "idle": idle,
    "starts": starts,
    "neighbour": neighbour,
    "pull-others": speed.pull_others,
    "pull-far": speed.pull_far,
}


# Parts that make many files: ext4 avoids the inodes of files that were deleted in the last five
# minutes, and a part deletes its own at its end.
_MAKING = {"pull", "pull-others", "pull-far"}
_QUIET = 330  # seconds
_deleted = -_QUIET * 1.0


def _settle(part: str, home: Path) -> None:
    if part in _MAKING:
        left = _QUIET - (time.monotonic() - _deleted)
        if left > 0:
            say(f"{part}: waiting {left:.0f} s, until ext4 has forgotten what was deleted")
            time.sleep(left)
        fill_memory(home)


def measure(part: str, work: Path, rounds: int, tree: str) -> dict[str, Any]:
    """What a part finds, with servers of its own: they end by themselves after an hour."""
    global _deleted
    say(part)
    before = load()
    with (
        tempfile.TemporaryDirectory(prefix="run-", dir=work) as home,
        ExitStack() as running,
    ):
        _settle(part, Path(home))
        begin = time.monotonic()
        found = PARTS[part](Stage(Path(home), work, rounds, running, tree))
    seconds, _deleted = time.monotonic() - begin, time.monotonic()
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "load": {"before": before, "after": load()},
        "seconds": round(seconds),
        "rounds": rounds,
        **asdict(found),
    }


def whole(parts: dict[str, Any], work: Path, tree: str) -> dict[str, Any]:
    """All that the page is made of. Parts come in one order, whoever ran first."""
    sizes_of = files_below(Path(make(work, tree).path))
    return {
        "machine": machine(work),
        "versions": versions(),
        "work": {"name": tree, "files": len(sizes_of), "bytes": sum(sizes_of.values())},
        "parts": {part: parts[part] for part in PARTS if part in parts},
    }


def main() -> None:
    words = argparse.ArgumentParser(prog="bench", description="Compare aotcache with its peers.")
    words.add_argument("--work", type=Path, default=WORK, help="where trees are made, and kept")
    words.add_argument("--only", default="", help=f"of {','.join(PARTS)}")
    words.add_argument("--rounds", type=int, default=ROUNDS)
    words.add_argument("--tree", default=EIGHT, help="another tree, for a quick look")
    words.add_argument("--keep", action="store_true", help="put these parts into docs/")
    asked = words.parse_args()
    parts = [part for part in asked.only.split(",") if part] or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    missing = [name for name in ("tar", "zstd", "cp", "wrk") if shutil.which(name) is None]
    if missing:
        sys.exit(f"the benchmark needs {', '.join(missing)}: apt-get install {' '.join(missing)}")
    asked.work.mkdir(parents=True, exist_ok=True)
    work = asked.work.resolve()
    keep = asked.keep or not asked.only
    kept = json.loads(page.JSON.read_text()).get("parts", {}) if keep else {}
    found = {}
    for part in parts:
        found[part] = measure(part, work, asked.rounds, asked.tree)
        if keep:  # after each part: a later one that fails costs only itself
            kept[part] = found[part]
            page.write(whole(kept, work, asked.tree))
    if keep:
        plots.draw(page.JSON)
        say(f"written to {page.JSON} and {page.PAGE}")
    print(report.render(whole(found, work, asked.tree)))


if __name__ == "__main__":
    main()
