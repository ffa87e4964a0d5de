"""How long an operator waits for a page, with as many trees as there may be."""

from __future__ import annotations

import http.client
import math
import random
import time
from collections import defaultdict
from contextlib import ExitStack
from urllib.parse import quote, urlencode, urlsplit

from aotcache.protocol.names import VLLM_AOT
from bench.lookups import FEW, MANY, POSTGRESQL, SQLITE, TREES, fill, fill_sqlite
from bench.stage import Found, Stage, say
from support import filled
from support import site as sites
from support.postgres import run_postgres

_TURNS = 30  # of all pages, a round
PAGES = tuple(
    f"milliseconds of a page at p95, {trees:,} trees, {database}"
    for trees, database in ((TREES, SQLITE), (MANY, POSTGRESQL))
)
assert FEW < TREES


def pages(stage: Stage) -> Found:
    """One after the other, in turns, by a browser that is there already. The worst page counts."""
    numbers = {}
    for what, trees, database in zip(PAGES, (TREES, MANY), (SQLITE, POSTGRESQL), strict=True):
        with ExitStack() as running:
            say(what)
            data, env = stage.folder(database), {}
            if database == POSTGRESQL:
                url = running.enter_context(run_postgres()).fresh_url()
                env["AOTCACHE_DATABASE_URL"] = url
                fill(url, trees)
            else:
                fill_sqlite(stage.work, data, trees)
            service = running.enter_context(sites.run(data, env=env))
            numbers[what] = _waited(service.url, trees, stage.rounds)
    return Found(numbers=numbers)


def _waited(url: str, trees: int, rounds: int) -> dict[str, float]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    waited: dict[str, list[float]] = defaultdict(list)
    drawn = random.Random(0)
    for turn in range(_TURNS * rounds + 1):
        for name, path in _paths(drawn.randrange(trees)).items():
            begin = time.perf_counter()
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            taken = time.perf_counter() - begin
            assert answer.status == 200, f"{path}: {answer.status}"
            if turn:
                waited[name].append(1000 * taken)
    connection.close()
    worst = {name: sorted(all_)[math.ceil(0.95 * len(all_)) - 1] for name, all_ in waited.items()}
    return {**worst, "worst": max(worst.values())}


def _paths(number: int) -> dict[str, str]:
    """The pages, each about another tree in each turn."""
    asked = filled.found(number)
    recipe = filled.by_recipe(number).recipe
    at = f"/trees/{asked.namespace}/{asked.layout}/{asked.hash}/{asked.platform.id}"
    lists = {
        "trees": {},
        "by size": {"sort": "stored_bytes", "order": "asc"},
        "hash begins": {"search": asked.hash[:6]},
        "model holds": {"search": recipe.model[-6:]},
        "nothing found": {"search": "no such model"},
        "of a model": {"model": recipe.model, "sort": "used"},
        "of a publisher": {"publisher": f"node-{number % 500}", "sort": "raw_bytes"},
        "of a platform": {"platform": asked.platform.id, "layout": VLLM_AOT},
        "pinned": {"pinned": "1"},
        "quarantined": {"quarantined": "1", "model": recipe.model},
    }
    return {
        "overview": "/",
        "tree": quote(at),
        "confirm": quote(f"{at}/delete"),
        "misses": "/misses",
        "audit": "/audit",
        **{name: f"/trees?{urlencode(query)}" for name, query in lists.items()},
    }
