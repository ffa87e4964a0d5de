from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from aotcache.errors import UsageError
from aotcache.protocol.names import INDUCTOR
from aotcache.protocol.v1.recipes import RecipeLookup
from aotcache.protocol.v1.trees import SORTS
from aotcache_service.index.database import Database
from aotcache_service.index.listing import Filter, list_trees
from aotcache_service.index.models import RecipeRow, TreeRow, recipe_trees
from aotcache_service.index.recipes import RecipeFound, lookup_recipe
from support.stored import PLATFORM, RECIPE

MIGRATE = """
import sys
from aotcache_service.index.database import Database
sys.stdin.readline()
database = Database(sys.argv[1])
database.migrate()
database.close()
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'new' / 'index.sqlite3'}"


def test_processes_that_start_at_once_migrate_once(url: str) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, url],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for _ in range(4)
    ]
    # All have imported everything and wait for their line.
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=120)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0] * 4, errors
    database = Database(url)
    database.migrate()
    with database.read() as db:
        assert list_trees(db, Filter()).trees == ()
    database.close()


def _recipe() -> RecipeRow:
    return RecipeRow(
        id=1,
        namespace="default",
        name=RECIPE.id,
        engine=RECIPE.engine,
        model=RECIPE.model,
        fields=asdict(RECIPE),
        published=1,
    )


def _tree() -> TreeRow:
    return TreeRow(
        id=1,
        namespace="default",
        layout=INDUCTOR,
        hash="k",
        platform_id=PLATFORM.id,
        platform=asdict(PLATFORM),
    )


def test_write_is_rolled_back_when_it_raises(url: str) -> None:
    database = Database(url)
    database.migrate()

    def fail() -> None:
        with database.write() as db:
            db.add(_recipe())
            db.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as db:
        assert db.get(RecipeRow, 1) is None
    database.close()


def test_sqlite_reads_while_another_process_writes(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'index.sqlite3'}")
    database.migrate()
    with database.write() as db:
        db.add(_recipe())
        db.flush()
        with database.read() as reading:
            assert reading.get(RecipeRow, 1) is None
        other = sqlite3.connect(tmp_path / "index.sqlite3", timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()
    database.close()


def test_unmigrated_database_fails_loudly(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'index.sqlite3'}")
    with pytest.raises(OperationalError), database.read() as db:
        list_trees(db, Filter())
    database.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://x/y", "nonsense"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        Database(url)


def test_password_is_not_shown() -> None:
    database = Database("postgresql://user:secret@127.0.0.1:1/x")
    assert "secret" not in database.url
    database.close()


@contextmanager
def query_plans() -> Iterator[list[list[str]]]:
    """SQLite's plan for each question that it is asked meanwhile."""
    plans: list[list[str]] = []

    def explain(
        _: object, cursor: sqlite3.Cursor, statement: str, parameters: Any, *_more: object
    ) -> None:
        if statement.startswith("SELECT"):
            rows = cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            plans.append([str(row[3]) for row in rows])

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(Engine, "before_cursor_execute", explain)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'index.sqlite3'}")
    database.migrate()
    yield database
    database.close()


@pytest.mark.parametrize("namespace", ["", "default"])
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", SORTS)
def test_pages_are_read_in_the_order_of_an_index(
    empty: Database, sort: str, order: str, namespace: str
) -> None:
    """Nothing is sorted and nothing scanned: a page costs the same at a million trees."""
    with empty.read() as db, query_plans() as plans:
        list_trees(db, Filter(namespace=namespace), sort=sort, order=order)
    page = plans[0]
    assert not any("TEMP B-TREE" in step for step in page), page
    assert any("USING INDEX" in step for step in page), page


def test_recipes_are_found_by_indexes(empty: Database) -> None:
    """Nothing is scanned, and the recipes of a model are read in the order of their index."""
    with empty.write() as db:
        db.add(_tree())
        db.add(_recipe())
        db.flush()
        db.execute(recipe_trees.insert().values(recipe_id=1, layout=INDUCTOR, hash="k", tree_id=1))
    asked = RecipeLookup(recipe=RECIPE, platform=PLATFORM)
    with empty.read() as db, query_plans() as plans:
        assert isinstance(lookup_recipe(db, asked), RecipeFound)
    assert not any(step.startswith("SCAN") for plan in plans for step in plan), plans
    assert "recipes USING INDEX ix_recipes_namespace_engine_model" in plans[0][0]
    assert not any("TEMP B-TREE" in step for step in plans[0]), plans[0]
