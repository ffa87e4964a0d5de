"""An index in each of the databases it can lie in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aotcache.storage import DirectStore, open_store
from aotcache_service.index.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[], Database]]:
    """Makes empty databases: each call another one."""
    made: list[Database] = []

    def make() -> Database:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path / str(len(made))}/index.sqlite3"
        elif made:
            url = request.getfixturevalue("postgres").fresh_url()
        else:
            url = request.getfixturevalue("postgres_url")
        made.append(Database(url))
        made[-1].migrate()
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def database(new_database: Callable[[], Database]) -> Database:
    return new_database()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DirectStore]:
    opened = open_store((tmp_path / "objects").as_uri())
    yield opened
    opened.close()
