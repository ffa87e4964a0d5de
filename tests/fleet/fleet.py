"""Simulate a fleet, and what it says of a larger one. `make fleet`.

    python -m fleet.fleet [--nodes N] [--seconds S] [--only PART,…] [--keep]

A full run writes docs/fleet.json and what is made of it; others do with --keep.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.machine import commit, load, machine
from fleet import report
from fleet.costs import costs, seconds_of_a_write
from fleet.large import CASES, foreseen
from fleet.pool import pools
from fleet.scenarios import SCENARIOS, Size, Trees, play
from fleet.servers import run_servers
from support.postgres import PostgresServer, run_postgres
from support.s3 import S3Server
from support.seaweedfs import run_seaweedfs
from support.trees import compile_kernels, compile_program

KERNELS = 4
PARTS = (*SCENARIOS, "costs", "model", "pool")


def main() -> None:
    words = argparse.ArgumentParser(prog="fleet", description="Simulate a fleet.")
    words.add_argument("--nodes", type=int, default=1000)
    words.add_argument("--seconds", type=float, default=60.0, help="within which all start")
    words.add_argument("--compile", type=float, default=20.0, help="seconds of a compile")
    words.add_argument("--wait", type=float, default=120.0, help="AOTCACHE_WAIT")
    words.add_argument("--only", default="", help=f"of {', '.join(PARTS)}")
    words.add_argument("--keep", action="store_true", help="put these parts into docs/")
    asked = words.parse_args()
    parts = [part for part in asked.only.split(",") if part] or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"no such part: {', '.join(unknown)}")
    keep = asked.keep or not asked.only
    data: dict[str, Any] = json.loads(report.JSON.read_text()) if report.JSON.exists() else {}
    size = Size(asked.nodes, asked.seconds, asked.compile, asked.wait)
    with tempfile.TemporaryDirectory(prefix="aotcache-fleet-") as home, ExitStack() as running:
        folder = Path(home)
        data |= {
            "machine": machine(folder),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "commit": commit(),
            "size": asdict(size),
        }
        if set(parts) - {"model"}:
            trees = make_trees(folder)
            servers = running.enter_context(run_postgres()), running.enter_context(run_seaweedfs())
        for part in parts:
            print(part, file=sys.stderr, flush=True)
            if part == "pool":
                data["pool"] = pools(folder / "pool", servers[0])
            elif part == "costs":
                data |= measure_costs(folder, trees, *servers)
            elif part == "model":
                data["large"] = foresee(data)
            else:
                found = measure(part, folder, trees, size, *servers)
                kept = data.get("scenarios", {}) | {part: found}
                data["scenarios"] = {name: kept[name] for name in SCENARIOS if name in kept}
            if keep:  # after each part: a later one that fails costs only itself
                report.write(data)
    if "scenarios" in data:
        print(report.scenarios(data["scenarios"]))
    if "large" in data:
        print(report.large(data["large"]))


def make_trees(folder: Path) -> Trees:
    """What nodes copy where a real one compiles: made by the real compilers."""
    trees = Trees(folder / "kernels", folder / "inductor")
    compile_kernels(trees.kernels, KERNELS)
    compile_program(trees.inductor)
    return trees


def measure(
    scenario: str, folder: Path, trees: Trees, size: Size, postgres: PostgresServer, s3: S3Server
) -> dict[str, Any]:
    place = folder / scenario.replace(" ", "-")
    before = load()
    with run_servers(place / "servers", postgres, s3) as servers:
        found = report.summary(play(scenario, servers, place, trees, size))
    return {**found, "load": {"before": before, "after": load()}}


def measure_costs(
    folder: Path, trees: Trees, postgres: PostgresServer, s3: S3Server
) -> dict[str, Any]:
    with run_servers(folder / "costs" / "servers", postgres, s3) as servers:
        found = costs(servers, folder / "costs" / "trees", trees)
        return {
            "costs": {call: asdict(cost) for call, cost in found.items()},
            "write_seconds": seconds_of_a_write(servers),
        }


def foresee(data: dict[str, Any]) -> list[dict[str, Any]]:
    """By the costs that were measured."""
    service_ms = {call: one["service"] for call, one in data["costs"].items()}
    return [foreseen(case, service_ms, data["write_seconds"]) for case in CASES]


if __name__ == "__main__":
    main()
