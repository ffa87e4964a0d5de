from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from aotcache.errors import UsageError
from aotcache_service.index.database import Database
from aotcache_service.index.listing import Filter, list_trees
from aotcache_service.index.models import RecipeRow
from support.stored import RECIPE

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


def test_too_old_an_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 32, 3))
    with pytest.raises(UsageError, match="another Python, or give it PostgreSQL"):
        Database(f"sqlite:///{tmp_path / 'index.sqlite3'}")


def test_password_is_not_shown() -> None:
    database = Database("postgresql://user:secret@127.0.0.1:1/x")
    assert "secret" not in database.url
    database.close()
