"""How many connections to its database a replica needs: the calls of starts, as many as it answers,
while others publish."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.lookups import POSTGRESQL, SQLITE
from support import site as sites
from support.postgres import PostgresServer
from support.small import small_tree
from support.stored import RECIPE as OTHER
from support.trees import H100, RECIPE

SIZES, CLIENTS = (2, 12, 24), (64, 512)
SECONDS = 8
_TREES = 20
# Of each ten calls: most of a start's that ask the index.
_MIX = ("lookup",) * 4 + ("recipe",) * 3 + ("explain",) + ("outcome",) * 2
# The size is no setting; this sets it all the same.
_SERVE = """
import sys
from aotcache_service.index import database
database._POOL["pool_size"] = int(sys.argv.pop(1))
from aotcache.cli import main
main()
"""


@dataclass(frozen=True, slots=True)
class Load:
    """busy: answered with 503; broken: with another 5xx; lost: not at all. connections: of the
    service to PostgreSQL, at most; published: trees meanwhile."""

    requests: int
    microseconds: int
    p50: int
    p99: int
    busy: int
    broken: int
    lost: int
    connections: int
    published: int


def pools(folder: Path, postgres: PostgresServer) -> list[dict[str, Any]]:
    found = []
    for database, sizes in ((POSTGRESQL, SIZES), (SQLITE, (12,))):
        for size in sizes:
            for clients in CLIENTS:
                place = folder / f"{database}-{size}-{clients}"
                url = postgres.fresh_url() if database == POSTGRESQL else ""
                load = _load(place, url, size, clients, postgres)
                about = {"database": database, "size": size, "clients": clients}
                found.append({**about, **asdict(load)})
    return found


def _load(place: Path, url: str, size: int, clients: int, postgres: PostgresServer) -> Load:
    place.mkdir(parents=True)
    env = {"AOTCACHE_DATABASE_URL": url} if url else {}
    command = (sys.executable, "-c", _SERVE, str(size))
    with sites.run(place / "service", env=env, command=command) as service:
        for number in range(_TREES):
            sites.publish_tree(service.site(), small_tree(place / "trees", name=f"t-{number}"))
        calls = place / "calls"
        calls.write_text("".join(_calls()))
        watch = _connections(postgres, url) if url else nullcontext([0])
        with _publishing(service, place) as published, watch as most:
            said = _wrk(service.url, calls, clients)
        return Load(*said, connections=max(most), published=len(published))


def _calls() -> Iterator[str]:
    from fleet.node import hash_of

    drawn = random.Random(0)
    platform, id = asdict(H100.for_any_cpu()), H100.for_any_cpu().id
    for number in range(2000):
        about = {"layout": "vllm-aot", "hash": hash_of(f"t-{drawn.randrange(_TREES)}")}
        bodies: dict[str, tuple[str, dict[str, Any]]] = {
            "lookup": ("lookup", {**about, "platform": platform}),
            "recipe": ("recipes/lookup", {"recipe": asdict(RECIPE), "platform": platform}),
            "explain": (
                "explain",
                {**about, "platform": platform, "recipe": asdict(OTHER), "node": f"n{number}"},
            ),
            "outcome": (
                "outcomes",
                {**about, "platform": id, "part": "rank_0_0-d0", "generation": 1,
                 "outcome": "loaded", "node": f"n{number}"},
            ),
        }  # fmt: skip
        path, body = bodies[drawn.choice(_MIX)]
        yield f"/v1/{path}\t{json.dumps(body)}\n"


def _wrk(url: str, calls: Path, clients: int) -> list[int]:
    script = str(Path(__file__).with_name("mix.lua"))
    command = ["wrk", "-t1", f"-c{clients}", f"-d{SECONDS}s", "--timeout", "30s", "-s", script, url]
    done = subprocess.run(
        [*command, "--", str(calls)], check=True, stdout=subprocess.PIPE, text=True
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("found "))
    return [int(word) for word in line.split()[1:]]


@contextmanager
def _publishing(service: sites.Service, place: Path) -> Iterator[list[int]]:
    over, done = threading.Event(), []

    def publish() -> None:
        number = 0
        while not over.is_set():
            number += 1
            tree = small_tree(place / "more", name=f"more {number}", model_bytes=10_000)
            sites.publish_tree(service.site(), tree)
            done.append(number)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


@contextmanager
def _connections(postgres: PostgresServer, url: str) -> Iterator[list[int]]:
    seen, over = [0], threading.Event()
    place = f"host=127.0.0.1 port={postgres.port} user=postgres dbname=postgres"

    def look() -> None:
        with psycopg.connect(place, autocommit=True) as connection:
            while not over.wait(0.1):
                row = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = %s",
                    (url.rpartition("/")[2],),
                ).fetchone()
                seen.append(row[0] if row else 0)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
