"""Run starts of nodes against servers, and measure both sides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from fleet.plan import COMPILED, HIT, WAITED, Ended, Plan
from fleet.servers import Servers, settled

_TESTS = Path(__file__).parents[1]
_LEAD = 0.5  # seconds between the signal and the first start


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """cpu: seconds of each server, and of the nodes. requests: to the service, by route. s3: by
    who asked and method, requests and bytes either way. lookups: as a node saw them that had a
    processor; of_nodes: as those saw them that shared it. database: most connections at a time, and
    transactions. seconds: from the first start to the last end."""

    seconds: float
    ended: tuple[Ended, ...]
    cpu: dict[str, float]
    requests: dict[str, int]
    bytes_through: dict[str, int]
    s3: dict[str, dict[str, int]]
    lookups: tuple[float, ...]
    database: dict[str, int]

    def how_many(self, how: str) -> int:
        return sum(one.how == how for one in self.ended)

    @property
    def hits(self) -> int:
        return self.how_many(HIT) + self.how_many(WAITED)

    @property
    def misses(self) -> int:
        return self.how_many(COMPILED)

    @property
    def errors(self) -> list[str]:
        return [one.error for one in self.ended if one.error]

    @property
    def of_nodes(self) -> list[float]:
        return [seconds for one in self.ended for seconds in one.lookups]


def run_starts(servers: Servers, folder: Path, plan: Plan, *, crowds: int = 2) -> Measured:
    """All starts of the plan, in so many processes."""
    before = _state(servers)
    with _most_connections(servers) as most, _probe(servers.url) as lookups:
        ended, nodes_cpu, seconds = _crowds(folder, plan, crowds)
    settled(servers)
    after = _state(servers)
    return Measured(
        seconds=seconds,
        ended=tuple(sorted(ended, key=lambda one: one.node)),
        cpu={**_less(after["cpu"], before["cpu"]), "nodes": nodes_cpu},
        requests=_without_probe(_less(after["requests"], before["requests"]), len(lookups)),
        bytes_through=_less(after["through"], before["through"]),
        s3={
            name: _less(counts, before["balancer"][name])
            for name, counts in after["balancer"].items()
            if name.startswith("s3-")
        },
        lookups=tuple(lookups),
        database={
            "connections": max(most),
            "transactions": after["database"] - before["database"],
        },
    )


def _state(servers: Servers) -> dict[str, Any]:
    return {
        "cpu": servers.cpu(),
        "requests": servers.requests(),
        "through": servers.bytes_through(),
        "balancer": servers.balancer.counts(),
        "database": servers.database_load()["transactions"],
    }


def _less(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    return {name: value - before.get(name, 0) for name, value in after.items()}


def _without_probe(requests: dict[str, int], probed: int) -> dict[str, int]:
    left = {**requests, "POST /v1/lookup": requests.get("POST /v1/lookup", 0) - probed}
    return {route: count for route, count in left.items() if count}


def _crowds(folder: Path, plan: Plan, crowds: int) -> tuple[list[Ended], float, float]:
    """What became of each, the processor seconds of all, and the seconds that it took."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = sorted(plan.jobs, key=lambda job: job.at)
    started: list[tuple[subprocess.Popen[str], Path]] = []
    used = os.times()
    for number in range(crowds):
        share = msgspec.structs.replace(plan, jobs=tuple(jobs[number::crowds]))
        paths = folder / f"plan-{number}.json", folder / f"ended-{number}.json"
        paths[0].write_bytes(msgspec.json.encode(share))
        # The servers come first: on machines of their own nodes would not take their processors.
        command = ["nice", "-n", "10", sys.executable, "-m", "fleet.crowd", *map(str, paths)]
        started.append((_python(command), paths[1]))
    for process, _ in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    begin = time.time() + _LEAD
    ended: list[Ended] = []
    for process, _ in started:
        assert process.stdin is not None
        process.stdin.write(f"{begin}\n")
        process.stdin.flush()
    for process, path in started:
        process.communicate()
        assert process.returncode == 0
        ended += msgspec.json.decode(path.read_bytes(), type=list[Ended])
    seconds, now = time.time() - begin, os.times()
    return ended, now[2] + now[3] - used[2] - used[3], seconds


def _python(command: Sequence[str]) -> subprocess.Popen[str]:
    env = {
        # Only what the plan says counts, not what this shell has set.
        **{name: value for name, value in os.environ.items() if not name.startswith("AOTCACHE_")},
        "PYTHONPATH": str(_TESTS),
    }
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )


@contextmanager
def _probe(url: str) -> Iterator[list[float]]:
    """Filled when the block ends."""
    found: list[float] = []
    process = _python([sys.executable, "-m", "fleet.probe", url])
    try:
        yield found
    finally:
        said, _ = process.communicate("\n", timeout=60)
        found += json.loads(said or "[]")


@contextmanager
def _most_connections(servers: Servers) -> Iterator[list[int]]:
    seen: list[int] = [0]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.25):
            seen.append(servers.database_load()["connections"])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
