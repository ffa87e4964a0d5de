"""A service's database filled with many trees, and what to ask it for.

    python -m support.filled URL TREES      (with tests on PYTHONPATH)

The rows are those that publishing such trees would leave; nothing lies in object storage. The same
number of trees always gives the same rows, and tree n is the same however many there are; what the
fleet did lately is by the clock, as only that is shown.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Connection, Table

import aotcache_service.index.operation  # noqa: F401  # so that all tables are known
from aotcache.protocol.names import VLLM_AOT, VLLM_JIT, TreeKey, manifest_key
from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.lookup import Lookup
from aotcache.protocol.v1.recipes import RecipeLookup
from aotcache_service.index.database import Database
from aotcache_service.index.models import LIVE, Base

Row = dict[str, Any]

NAMESPACES = ("default", "default", "default", "team-a", "team-b")
# What starts of one recipe used: its modules' hashes, the last one on two platforms.
STARTED = 10
FIRST_DAY = 1_760_000_000
_BATCH = 20_000
_MISSES = 30_000  # of all trees: in the namespace with the most as many as the service keeps
_HISTORY = 90 * 24  # hours
_CAUSES = 150
_RANKS = (1, 1, 1, 1, 2, 2, 2, 8)
_DEVICES = (
    ("NVIDIA H100 80GB HBM3", "sm_90"),
    ("NVIDIA A100-SXM4-80GB", "sm_80"),
    ("NVIDIA L40S", "sm_89"),
    ("NVIDIA B200", "sm_100"),
)
PLATFORMS = tuple(
    Platform(
        torch=torch,
        triton="3.7.0",
        cuda="13.0",
        device=device,
        arch=arch,
        python=python,
        machine="x86_64",
        libc="glibc-2.36",
        cpu=cpu,
    )
    for device, arch in _DEVICES
    for torch in ("2.12.1+cu130", "2.13.0+cu130")
    for python in ("cpython-3.11.7", "cpython-3.12.9")
    for cpu in ("", "9f86d081884c7d65")
)
_ABSENT = replace(PLATFORMS[0], device="AMD Instinct MI300X", arch="gfx942", cuda="", hip="7.0")


def found(number: int) -> Lookup:
    """A question whose answer is tree `number`."""
    key = _key(number)
    return Lookup(
        namespace=key.namespace, layout=key.layout, hash=key.hash, platform=_platform(number)
    )


def unknown(number: int) -> Lookup:
    """A question for a hash that no database has."""
    return replace(found(number), hash=_digest("unknown", number), layout=VLLM_AOT)


def elsewhere(number: int) -> Lookup:
    """A question for a hash that is stored, but for other platforms."""
    return replace(found(number), platform=_ABSENT)


def by_recipe(number: int) -> RecipeLookup:
    """A question whose answers are tree `number` and those beside it."""
    return RecipeLookup(
        namespace=_key(number).namespace, recipe=_recipe(number), platform=_platform(number)
    )


def fill(database: Database, trees: int) -> None:
    """Fill an empty, migrated database with trees 0 to `trees` - 1."""
    with database.write() as db:
        connection = db.connection()
        if database.sqlite_file is not None:
            # Pages that are changed again and again stay in memory.
            connection.exec_driver_sql("PRAGMA cache_size = -1000000")
        # Made in one go when the rows are there: several times faster.
        later = [index for table in Base.metadata.sorted_tables for index in table.indexes]
        for index in later:
            index.drop(connection)
        for first in range(0, trees, _BATCH):
            numbers = range(first, min(first + _BATCH, trees))
            for name, rows in _tables(numbers).items():
                _insert(connection, Base.metadata.tables[name], rows)
        for name, rows in _lately(trees, int(time.time())).items():
            _insert(connection, Base.metadata.tables[name], rows)
        for index in later:
            index.create(connection)
        if database.sqlite_file is None:
            _settle_postgresql(connection)


def _tables(numbers: range) -> dict[str, Iterable[Row]]:
    """The rows of these trees by table, tables that others refer to first."""
    parts = [row for number in numbers for row in _parts(number)]
    return {
        "recipes": (_recipe_row(number) for number in numbers if number % STARTED == 0),
        "trees": (_tree_row(number) for number in numbers),
        "recipe_trees": (_link(number) for number in numbers),
        "parts": parts,
        "packs": (_pack(number) for number in numbers),
        "part_packs": (_part_pack(part) for part in parts),
        "outcomes": (_outcome(number) for number in numbers if number % 3 == 0),
        "quarantines": (_quarantine(number) for number in numbers if number % 4 == 0),
    }


def _lately(trees: int, now: int) -> dict[str, Iterable[Row]]:
    """What nodes told and operators did in the last days, as far as the service keeps it."""
    return {
        "misses": (_miss(number, now) for number in range(min(trees, _MISSES))),
        "history": (
            {
                "namespace": namespace,
                "hour": now // 3600 * 3600 - 3600 * back,
                "what": what,
                "value": 9,
            }
            for back in range(min(trees // 10, _HISTORY))
            for namespace in sorted(set(NAMESPACES))
            for what in (
                "hit",
                "miss.unknown_hash",
                "outcome.loaded",
                "saved_seconds",
                "stored_bytes",
            )
        ),
        "audit": (_action(number, now) for number in range(min(trees, _BATCH))),
    }


def _miss(number: int, now: int) -> Row:
    key = _key(number)
    cause = f"env.VLLM_{number % _CAUSES}"
    near = {"layout": key.layout, "hash": key.hash, "platform": key.platform}
    return {
        "namespace": key.namespace,
        "layout": VLLM_AOT,
        "hash": _digest("unknown", number),
        "platform_id": key.platform,
        "node": f"node-{number % 5000}",
        "model": _recipe(number).model,
        "reason": "unknown_hash",
        "cause": cause,
        "differences": json.dumps([{"field": cause, "stored": "1", "asked": str(number)}]),
        "nearest": json.dumps(near),
        "count": 1 + number % 5,
        "last": now - number * 7_919 % (6 * 86_400),
    }


def _action(number: int, now: int) -> Row:
    key = _key(number)
    return {
        "id": number + 1,
        "at": now - 60 * (_BATCH - number),
        "token": "0123456789ab",
        "way": "pages",
        "namespace": key.namespace,
        "action": "pin",
        "what": f"{key.namespace}/{key.path}",
        "outcome": "done",
    }


def _quarantine(number: int) -> Row:
    """Of a tree that is not stored any more."""
    return {
        "namespace": _namespace(number),
        "layout": VLLM_AOT,
        "hash": _digest("gone", number),
        "platform_id": PLATFORMS[0].id,
        "part": "shared",
        "generation": 1,
        "content": "",
        "reason": "n1: crashed",
        "since": FIRST_DAY,
        "first": 1,
    }


def _recipe_row(number: int) -> Row:
    recipe = _recipe(number)
    return {
        "id": number // STARTED + 1,
        "namespace": _namespace(number),
        "name": recipe.id,
        "engine": recipe.engine,
        "model": recipe.model,
        "fields": json.dumps(asdict(recipe)),
        "published": _created(number),
    }


def _tree_row(number: int) -> Row:
    key, recipe, names = _key(number), _recipe(number), _part_names(number)
    return {
        "id": number + 1,
        "namespace": key.namespace,
        "layout": key.layout,
        "hash": key.hash,
        "platform_id": key.platform,
        "platform": _platform_json(number // STARTED % len(PLATFORMS), number % STARTED),
        "recipe_id": number // STARTED + 1,
        "engine": recipe.engine,
        "model": recipe.model,
        "parts": _texts(names),
        "withheld": "[]",
        "expected_parts": _texts(names),
        "files": 400 * len(names),
        "raw_bytes": _bytes(number) * len(names),
        "stored_bytes": _bytes(number) * len(names) // 5,
        "compile_seconds": 20.0 + number % 300,
        "publisher": f"node-{number % 500}",
        "created": _created(number),
        "used": _created(number) + number % 86_400,
        "lookups": number % 70,
        "hash_factors": json.dumps({"code": key.hash[:16], "env": key.hash[16:32]}),
        "notes": '{"driver": "580.95.05"}',
        "hidden": False,
        "pinned": number % 50 == 0,
        "quarantined": number % 97 == 0,
    }


def _link(number: int) -> Row:
    key = _key(number)
    return {
        "recipe_id": number // STARTED + 1,
        "layout": key.layout,
        "hash": key.hash,
        "tree_id": number + 1,
    }


def _parts(number: int) -> Iterator[Row]:
    """The shared part of every fourth tree has grown once. Every second start used two trees."""
    key, names = _key(number), _part_names(number)
    beside = number // STARTED * STARTED + (number + 1) % STARTED
    used = json.dumps(
        [
            {"layout": one.layout, "hash": one.hash}
            for one in (key, _key(beside))[: 1 + number // STARTED % 2]
        ]
    )
    for place, part in enumerate(names):
        newest = 2 if place == len(names) - 1 and number % 4 == 0 else 1
        for generation in range(1, newest + 1):
            yield {
                # 9 parts at most, one of them twice.
                "id": number * 10 + place + generation,
                "tree_id": number + 1,
                "part": part,
                "generation": generation,
                "newest": generation == newest,
                "manifest": manifest_key(key, part, generation),
                "files": 400,
                "raw_bytes": _bytes(number),
                "stored_bytes": _bytes(number) // 5,
                "signers": '["9b7d2c61f3a84e05b6c1d7e8f9a0b1c2"]',
                "created": _created(number),
                "publisher": f"node-{number % 500}",
                "recipe_id": number // STARTED + 1,
                "compile_seconds": 20.0 + number % 300,
                "expected_parts": _texts(names),
                "trees": used,
                "withheld": "",
                "content": "",
            }


def _pack(number: int) -> Row:
    name = f"{_digest('pack', number)}-{_digest('publish', number)[:32]}"
    return {
        "id": number + 1,
        "namespace": _namespace(number),
        "name": name,
        "size": _bytes(number),
        "state": LIVE,
        "condemned": 0,
        "loose": 0,
    }


def _part_pack(part: Row) -> Row:
    return {
        "part_id": part["id"],
        "pack_id": part["tree_id"],
        "frames": f"[[0, {part['stored_bytes']}]]",
    }


def _outcome(number: int) -> Row:
    return {
        "tree_id": number + 1,
        "part": "shared",
        "generation": 1,
        "outcome": "loaded",
        "count": 1 + number % 9,
        "pull_seconds": 1.5,
        "pulled_bytes": _bytes(number),
        "saved_seconds": 100.0,
        "reason": "",
        "node": f"node-{number % 500}",
        "last": _created(number),
    }


@lru_cache(_BATCH)
def _key(number: int) -> TreeKey:
    # The last two trees of a recipe are one hash on two platforms.
    module = number - (number % STARTED == STARTED - 1)
    digest = _digest("tree", module)
    layout, tree_hash = (VLLM_JIT, digest[:10]) if module % STARTED == 0 else (VLLM_AOT, digest)
    return TreeKey(
        namespace=_namespace(number),
        layout=layout,
        hash=tree_hash,
        platform=_platform_id(_platform(number)),
    )


def _namespace(number: int) -> str:
    return NAMESPACES[number // STARTED % len(NAMESPACES)]


def _platform(number: int) -> Platform:
    other = number % STARTED == STARTED - 1
    # Another device, so that neither tree answers for the other.
    return PLATFORMS[(number // STARTED + other * 8) % len(PLATFORMS)]


@cache
def _platform_id(platform: Platform) -> str:
    return platform.id


@cache
def _platform_json(recipe: int, place: int) -> str:
    return json.dumps(asdict(_platform(recipe * STARTED + place)))


def _recipe(number: int) -> Recipe:
    return _recipe_of(number // STARTED)


@lru_cache(_BATCH)
def _recipe_of(recipe: int) -> Recipe:
    """Five recipes a model, each of another revision."""
    return Recipe(
        engine="vllm",
        engine_version="0.32.0",
        # Recipes of one model lie in one namespace.
        model=f"org-{recipe % 5}/model-{recipe // 25}",
        revision=_digest("revision", recipe)[:40],
        dtype="bfloat16",
        tensor_parallel_size=_RANKS[recipe % len(_RANKS)],
    )


def _part_names(number: int) -> tuple[str, ...]:
    return _names_of(_RANKS[number // STARTED % len(_RANKS)])


@cache
def _names_of(ranks: int) -> tuple[str, ...]:
    return (*(f"rank_{rank}_0-d{rank}" for rank in range(ranks)), "shared")


def _created(number: int) -> int:
    """Several trees a second, not in the order of their rows."""
    return FIRST_DAY + number * 7_919 % 1_000_003


def _bytes(number: int) -> int:
    return 1_000_000 + number * 104_729 % 90_000_000


def _digest(kind: str, number: int) -> str:
    return hashlib.sha256(f"{kind} {number}".encode()).hexdigest()


@cache
def _texts(texts: tuple[str, ...]) -> str:
    return json.dumps(texts)


def _insert(connection: Connection, table: Table, rows: Iterable[Row]) -> None:
    """As the driver takes them: SQLAlchemy's own handling of values takes longer than SQLite."""
    names = [column.name for column in table.columns]
    values = ([row[name] for name in names] for row in rows)
    columns = ", ".join(names)
    cursor = connection.connection.cursor()
    if connection.dialect.name == "sqlite":
        places = ", ".join("?" * len(names))
        cursor.executemany(f"INSERT INTO {table.name} ({columns}) VALUES ({places})", values)
    else:
        with cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:  # type: ignore[attr-defined]
            for row in values:
                copy.write_row(row)
    cursor.close()


def _settle_postgresql(connection: Connection) -> None:
    """What PostgreSQL does by itself where rows come one by one: numbers go on after the last one,
    and the planner knows the tables."""
    for table in Base.metadata.sorted_tables:
        if "id" in table.columns and table.columns["id"].type.python_type is int:
            sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
            connection.exec_driver_sql(f"SELECT setval({sequence}, max(id)) FROM {table.name}")
    connection.exec_driver_sql("ANALYZE")


def main() -> None:
    url, trees = sys.argv[1:]
    database = Database(url)
    database.migrate()
    fill(database, int(trees))
    database.close()


if __name__ == "__main__":
    main()
