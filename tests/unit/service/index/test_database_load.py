"""Many writers at once, and writers that do not end: nobody waits for ever, and readers do not."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from aotcache.errors import UnavailableError
from aotcache_service.http.app import create_app
from aotcache_service.http.errors import said_of
from aotcache_service.index import database as index
from aotcache_service.index.database import CONNECTIONS, Database
from aotcache_service.settings import ServiceSettings

WRITERS = 3 * CONNECTIONS


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> float:
    """Turns, locks and connections are waited for as long as this."""
    seconds = 0.5
    monkeypatch.setattr(index, "BUSY_SECONDS", seconds)
    monkeypatch.setitem(index._POOL, "pool_timeout", seconds)
    return seconds


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'index.sqlite3'}"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    found = Database(url)
    found.migrate()
    yield found
    found.close()


def test_more_writers_than_connections_leave_some_to_readers(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def write(number: int) -> None:
        with database.write() as db:
            db.execute(text("SELECT 1"))
            if not number:
                begun.set()
                go_on.wait()

    with ThreadPoolExecutor(WRITERS) as pool:
        first = pool.submit(write, 0)
        begun.wait()
        others = [pool.submit(write, number) for number in range(1, WRITERS)]
        for _ in range(CONNECTIONS):
            with database.read() as db:
                assert db.scalar(text("SELECT 1")) == 1
        assert not any(one.done() for one in (first, *others))
        go_on.set()
        for one in (first, *others):
            one.result()


@pytest.mark.usefixtures("short")
def test_a_writer_that_does_not_end_is_not_waited_for_for_ever(url: str) -> None:
    database, other = Database(url), Database(url)
    database.migrate()
    with database.write():
        # Of this process, and of another.
        with ThreadPoolExecutor(1) as pool, pytest.raises(UnavailableError, match="have been"):
            pool.submit(_write, database).result()
        if database.sqlite_file is None:
            with pytest.raises(OperationalError, match="lock timeout"):
                _write(other)
    _write(other)
    database.close()
    other.close()


def test_a_replica_that_stops_within_a_transaction_loses_its_lock(
    short: float, postgres_url: str
) -> None:
    stopped, other = Database(postgres_url), Database(postgres_url)
    stopped.migrate()
    with pytest.raises((DBAPIError, psycopg.Error)), stopped.write() as db:  # noqa: PT012
        db.execute(text("SELECT 1"))
        time.sleep(short * 4 + 0.5)
        _write(other)
        db.execute(text("SELECT 1"))
    _write(stopped)
    stopped.close()
    other.close()


def test_a_server_that_became_a_standby_is_left(postgres_url: str) -> None:
    """Once it has writers again they are found, by connections that were not there before."""
    database = Database(postgres_url)
    database.migrate()
    name, make = postgres_url.rpartition("/")[2], text("CREATE TABLE made ()")
    mode = f'ALTER DATABASE "{name}" SET default_transaction_read_only = '
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as server:
        server.execute(mode + "on")
        database._engine.dispose()
        with pytest.raises(OperationalError, match="read-only") as seen, database.write() as db:
            db.execute(make)
        assert "is a standby" in said_of(seen.value)[1]
        server.execute("SET default_transaction_read_only = off")
        server.execute(mode + "off")
    with database.write() as db:
        db.execute(make)
    database.close()


def test_a_second_replica_waits_for_a_long_migration(short: float, postgres_url: str) -> None:
    first, second = Database(postgres_url), Database(postgres_url)
    with ThreadPoolExecutor(1) as pool:
        with first.write():
            waiting = pool.submit(second.migrate)
            time.sleep(short * 3)
            assert not waiting.done()
        waiting.result()
    first.close()
    second.close()


@pytest.mark.usefixtures("short")
def test_a_service_without_connections_says_when_to_come_again(url: str, tmp_path: Path) -> None:
    app = create_app(ServiceSettings(data_dir=tmp_path / "data", database_url=url))
    with TestClient(app, "http://127.0.0.1:8750", raise_server_exceptions=False) as client:
        database = app.context.database
        held = [database._engine.connect() for _ in range(CONNECTIONS)]
        asked = {"layout": "vllm-aot", "hash": "a" * 64, "platform": {"torch": "2"}}
        answers = [
            client.get("/v1/trees"),
            client.post("/v1/publish", json={"publish_id": "1" * 32, "parts": ["shared"], **asked}),
        ]
        for connection in held:
            connection.close()
        assert client.get("/v1/trees").status_code == 200
    for answer in answers:
        assert answer.status_code == 503
        assert answer.json()["code"] == "unavailable"
        assert answer.headers["retry-after"] == "1"


def test_a_postgresql_that_has_no_connection_left_is_told(
    postgres_url: str, tmp_path: Path
) -> None:
    """As where more replicas run than `max_connections` is for."""
    role = f"replica_{uuid.uuid4().hex}"
    admin = Database(postgres_url)
    with admin.write() as db:
        db.execute(text(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 4"))
        db.execute(text(f"GRANT ALL ON SCHEMA public TO {role}"))
    url = postgres_url.replace("postgres@", f"{role}@")
    app = create_app(ServiceSettings(data_dir=tmp_path / "data", database_url=url))
    with TestClient(app, "http://127.0.0.1:8750", raise_server_exceptions=False) as client:
        held = []
        # The service's own threads come and go meanwhile, each with a connection.
        while (answer := client.get("/v1/trees")).status_code == 200:
            with suppress(OperationalError):
                held.append(app.context.database._engine.connect())
        for connection in held:
            connection.close()
        assert client.get("/v1/trees").status_code == 200
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    admin.close()


def _write(database: Database) -> None:
    with database.write() as db:
        db.execute(text("SELECT 1"))
