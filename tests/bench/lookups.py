"""The service's answers: lookups a second with many clients, and how long one takes with a million
trees. The load comes from wrk, on the same cores."""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.stage import Found, Stage, same, say
from support import filled
from support import site as sites
from support.postgres import run_postgres

RATE, LATENCY = "lookups a second, 64 connections", "milliseconds of a lookup, 64 connections"
TREES = 100_000
FEW, MANY = 1_000, 1_000_000
QUESTIONS = 10_000
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
LOOKUP, PAGE = "microseconds of a lookup", "microseconds of a first page of the list"
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class _Load:
    """What wrk saw. Times in microseconds."""

    requests: int
    duration: int
    p50: int
    p99: int
    failed: int


def lookups(stage: Stage) -> Found:
    """One service process, SQLite, all questions for trees that are stored."""
    data = stage.folder("lookups")
    fill_sqlite(stage.work, data, TREES)
    questions = _questions(data, TREES)
    loads = []
    with sites.run(data) as service:
        for number in range(stage.rounds + 1):
            say(f"lookups, round {number}")
            load = _lookups(service.url, questions, connections=64, seconds=5 if number else 2)
            loads += [load] if number else []
    rate = statistics.median(1e6 * load.requests / load.duration for load in loads)
    return Found(
        numbers={
            RATE: {"aotcache": rate},
            LATENCY: {
                "p50": statistics.median(load.p50 for load in loads) / 1000,
                "p99": statistics.median(load.p99 for load in loads) / 1000,
            },
        }
    )


def many_trees(stage: Stage) -> Found:
    """One question at a time, at services with few and with many trees, in turns."""
    numbers: dict[str, dict[str, float]] = {}
    for database in (SQLITE, POSTGRESQL):
        for what, by_trees in _with_database(stage, database).items():
            numbers[f"{what}, {database}"] = {
                trees_of(count): statistics.median(found) for count, found in by_trees.items()
            }
    return Found(numbers=numbers)


def trees_of(count: int) -> str:
    return f"{count:,} trees"


def _with_database(stage: Stage, database: str) -> dict[str, dict[int, list[int]]]:
    found: dict[str, dict[int, list[int]]] = {what: {FEW: [], MANY: []} for what in (LOOKUP, PAGE)}
    with ExitStack() as running:
        server = running.enter_context(run_postgres()) if database == POSTGRESQL else None
        services, questions = {}, {}
        for trees in (FEW, MANY):
            say(f"many trees: {trees} in {database}")
            data = stage.folder(f"{database} {trees}")
            env = {}
            if server:
                env["AOTCACHE_DATABASE_URL"] = server.fresh_url()
                fill(env["AOTCACHE_DATABASE_URL"], trees)
            else:
                fill_sqlite(stage.work, data, trees)
            services[trees] = running.enter_context(sites.run(data, env=env))
            questions[trees] = _questions(data, trees)
        for number in range(stage.rounds + 1):
            for trees, service in services.items():
                asked = _lookups(service.url, questions[trees], connections=1, seconds=2)
                listed = _wrk(f"{service.url}/v1/trees", 1, 2)
                if number:
                    found[LOOKUP][trees].append(asked.p50)
                    found[PAGE][trees].append(listed.p50)
    return found


def fill_sqlite(work: Path, data: Path, trees: int) -> None:
    """Made once: a million takes minutes."""
    made = work / f"filled-{trees}.sqlite3"
    if not made.exists():
        half = made.with_suffix(".half")
        half.unlink(missing_ok=True)
        fill(f"sqlite:///{half}", trees)
        half.rename(made)
        Path(f"{half}.lock").unlink(missing_ok=True)
    shutil.copy(made, data / "index.sqlite3")


def fill(url: str, trees: int) -> None:
    command = [sys.executable, "-m", "support.filled", url, str(trees)]
    subprocess.run(command, check=True, cwd=_HERE.parent)


def _questions(folder: Path, trees: int) -> Path:
    """Of trees drawn from all."""
    drawn = random.Random(0).sample(range(trees), min(QUESTIONS, trees))
    path = folder / "questions"
    path.write_text("".join(_lines(drawn)))
    return path


def _lines(numbers: Iterable[int]) -> Iterable[str]:
    return (json.dumps(asdict(filled.found(number))) + "\n" for number in numbers)


def _lookups(url: str, questions: Path, *, connections: int, seconds: int) -> _Load:
    return _wrk(f"{url}/v1/lookup", connections, seconds, str(questions))


def _wrk(url: str, connections: int, seconds: int, *words: str) -> _Load:
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "-s",
        str(_HERE / "load.lua"),
        url,
    ]
    done = subprocess.run([*command, "--", *words], check=True, stdout=subprocess.PIPE, text=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("found "))
    load = _Load(*(int(word) for word in line.split()[1:]))
    same(0, load.failed, f"answers of {url} that are no success")
    return load
