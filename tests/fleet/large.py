"""The model of a fleet that no machine here can hold: 100,000 nodes in 20 regions."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleet.model import Happened, Region, at, happen, peak
from fleet.plan import COMPILED, Job

NODES, REGIONS = 100_000, 20
COMPILE_SECONDS, WAIT = 60.0, 180.0
# A node's share of a tree as of a model on eight devices; its own machine takes so long for it.
PULL_BYTES, PULL_GETS, PULL_SECONDS = 40_000_000, 6, 1.0
FLUSH_SECONDS = 0.002  # of a commit to a disk: the measured PostgreSQL does not wait for that

# As AWS documents it for S3, of one prefix in a second ("Best practices design patterns:
# optimizing Amazon S3 performance"); 12 connections a replica of PostgreSQL's usual 100.
GETS_A_PREFIX, PUTS_A_PREFIX = 5_500, 3_500
CONNECTIONS_A_REPLICA, CONNECTIONS = 12, 97


@dataclass(frozen=True, slots=True)
class Case:
    """nodes: of one service, of `hashes`, starting within so many seconds."""

    what: str
    nodes: int
    seconds: float
    replicas: int
    hashes: int = 1


CASES = (
    Case("one service for all, 8 replicas", NODES, 600, 8),
    Case("a service a region, 2 replicas", NODES // REGIONS, 60, 2),
    Case("a service a region, 4 replicas", NODES // REGIONS, 60, 4),
    Case("a service a region, 8 replicas", NODES // REGIONS, 60, 8),
    Case("a service a region, 2 replicas", NODES // REGIONS, 600, 2),
    Case("the same, 50 hashes", NODES // REGIONS, 600, 2, 50),
)


def region_of(case: Case, service_ms: Mapping[str, float], write_seconds: float) -> Region:
    drawn = random.Random(f"{case}")
    jobs = tuple(
        Job(
            node=node,
            at=drawn.uniform(0, case.seconds),
            name=f"hash-{node % case.hashes}",
            model=f"org/m-{node % case.hashes}",
        )
        for node in range(case.nodes)
    )
    return Region(
        jobs=jobs,
        replicas=case.replicas,
        service_ms=dict(service_ms),
        write_seconds=write_seconds + FLUSH_SECONDS,
        compile_seconds=COMPILE_SECONDS,
        wait=WAIT,
        pull_bytes=PULL_BYTES,
        pull_gets=PULL_GETS,
        pull_seconds=PULL_SECONDS,
    )


def foreseen(case: Case, service_ms: Mapping[str, float], write_seconds: float) -> dict[str, Any]:
    """What a case comes to, and how much of each limit it takes at its worst."""
    region = region_of(case, service_ms, write_seconds)
    found = happen(region)
    return {
        "case": case.what,
        "nodes": case.nodes,
        "seconds": case.seconds,
        "hashes": case.hashes,
        "replicas": case.replicas,
        "compiled": found.ended[COMPILED],
        "lookup_p50_ms": round(1000 * at(found.lookups, 0.5), 1),
        "lookup_p99_ms": round(1000 * at(found.lookups, 0.99), 1),
        "warm_p50": round(at(found.warm, 0.5), 1),
        "warm_p99": round(at(found.warm, 0.99), 1),
        "gigabits": round(8e-9 * peak(found.bytes, over=10), 1),
        "of_limits": of_limits(case, found, region),
    }


def of_limits(case: Case, found: Happened, region: Region) -> dict[str, float]:
    """Over the ten worst seconds: what was asked for, as a share of what there is. Above 1 a queue
    grows for as long as that lasts."""
    wanted = peak(found.asked, over=10) * found.busy / sum(found.asked.values())
    writes = peak(found.asked, over=10) * sum(found.writes.values()) / sum(found.asked.values())
    shares = {
        "service CPU": wanted / case.replicas,
        "PostgreSQL writes": writes * region.write_seconds,
        "PostgreSQL connections": case.replicas * CONNECTIONS_A_REPLICA / CONNECTIONS,
        "S3 GETs of a prefix": peak(found.gets) / GETS_A_PREFIX,
        "S3 PUTs of a prefix": peak(found.puts) / PUTS_A_PREFIX,
    }
    return {what: round(share, 2) for what, share in shares.items()}
