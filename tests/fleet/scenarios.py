"""Who starts what, and when: within a minute on one hash, on fifty, and as a rolling upgrade."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fleet.plan import Job, Plan
from fleet.run import Measured, run_starts
from fleet.servers import Servers

ONE, FIFTY, UPGRADE, ALONE = "one hash", "50 hashes", "rolling upgrade", "one hash, nobody waits"
SCENARIOS = (ONE, FIFTY, UPGRADE, ALONE)
WAVES = 10


@dataclass(frozen=True, slots=True)
class Size:
    """seconds: in which all nodes start. wait: AOTCACHE_WAIT. recorded: what compiling is said to
    have taken, where that is not what it takes."""

    nodes: int
    seconds: float
    compile_seconds: float
    wait: float
    hashes: int = 50
    recorded: float | None = None


@dataclass(frozen=True, slots=True)
class Trees:
    kernels: Path
    inductor: Path


def play(name: str, servers: Servers, folder: Path, trees: Trees, size: Size) -> Measured:
    """Servers on which nothing is stored yet."""
    plan = Plan(
        url=servers.url,
        kernels=str(trees.kernels),
        inductor=str(trees.inductor),
        home=str(folder / "nodes"),
        wait=0.0 if name == ALONE else size.wait,
        compile_seconds=size.compile_seconds,
        recorded_seconds=size.compile_seconds if size.recorded is None else size.recorded,
        jobs=jobs_of(name, size),
    )
    if name == UPGRADE:
        _bring_up(servers, folder / "before", plan, size)
    return run_starts(servers, folder, plan)


def jobs_of(name: str, size: Size) -> tuple[Job, ...]:
    """Drawn once for all: the same each time."""
    drawn = random.Random(f"{name} {size.nodes}")
    if name == UPGRADE:
        # A wave starts at once, with a newer engine.
        pause = size.seconds / WAVES
        return tuple(
            Job(
                node=node,
                at=pause * (node * WAVES // size.nodes),
                name="new",
                model="org/upgraded",
                version="0.33.0",
            )
            for node in range(size.nodes)
        )
    hashes = size.hashes if name == FIFTY else 1
    return tuple(
        Job(
            node=node,
            at=drawn.uniform(0, size.seconds),
            name=f"{name} {node % hashes}",
            model=f"org/{name} {node % hashes}",
        )
        for node in range(size.nodes)
    )


def _bring_up(servers: Servers, folder: Path, plan: Plan, size: Size) -> None:
    """The fleet runs the old hash: one node has compiled it, the others pulled it."""
    old = [msgspec.structs.replace(job, name="old", version="0.32.0", at=0.0) for job in plan.jobs]
    first = msgspec.structs.replace(plan, jobs=(old[0],), keep=True, compile_seconds=0.0)
    run_starts(servers, folder, first, crowds=1)
    pause = size.seconds / size.nodes
    rest = tuple(
        msgspec.structs.replace(job, at=pause * number) for number, job in enumerate(old[1:])
    )
    measured = run_starts(servers, folder, msgspec.structs.replace(plan, jobs=rest, keep=True))
    assert not measured.errors, measured.errors[:3]
