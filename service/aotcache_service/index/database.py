"""The connection to the database: SQLite by default, PostgreSQL where there are several replicas.

Writers come one at a time on both (BEGIN IMMEDIATE; an advisory lock), so that a transaction which
reads before it writes means the same on either. Readers never wait: they see a snapshot.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from filelock import FileLock
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.orm import Session

from aotcache.errors import UnavailableError, UsageError

from .turns import Turns

BUSY_SECONDS = 15  # that a connection, or its turn to write, is waited for
# Connections of a process. Each is held for milliseconds; more of them wait for the interpreter.
CONNECTIONS = 12
OLDEST_SQLITE = (3, 33)  # of 2020: the first with UPDATE FROM
_WRITER_LOCK = 0x616F7463  # "aotc": any number, the same in every replica
_WRITER, _PATIENT = "aotcache_writer", "aotcache_patient"
_CLOCK_SECONDS = 60  # between two looks at the database's clock


_POOL: dict[str, Any] = {
    "pool_size": CONNECTIONS,
    "max_overflow": 0,
    "pool_timeout": BUSY_SECONDS,
    "json_deserializer": msgspec.json.decode,
}
# A server that is gone is noticed, and its name may lead to another.
_POSTGRES = {
    "connect_timeout": "5",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


class Database:
    """The index's database. Raises UsageError for a URL of another kind of database."""

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise UsageError(f"the database URL cannot be read: {error}") from error
        self.sqlite_file: Path | None = None
        if parsed.get_backend_name() == "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise UsageError("the index needs a file: sqlite:////absolute/path/index.sqlite3")
            if sqlite3.sqlite_version_info < OLDEST_SQLITE:
                raise UsageError(
                    f"this Python has SQLite {sqlite3.sqlite_version}, and the index needs 3.33: "
                    "run the service with another Python, or give it PostgreSQL"
                )
            self.sqlite_file = Path(parsed.database)
            self.sqlite_file.parent.mkdir(parents=True, exist_ok=True)
            self._engine = create_engine(parsed, **_POOL)
            self._reader = self._engine
            event.listen(self._engine, "connect", _prepare_sqlite)
        elif parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
            try:
                self._engine = create_engine(
                    parsed,
                    pool_pre_ping=True,
                    connect_args={k: v for k, v in _POSTGRES.items() if k not in parsed.query},
                    **_POOL,
                )
            except ImportError as error:
                raise UsageError(
                    f"PostgreSQL needs psycopg ({error}): pip install 'aotcache[postgres]'"
                ) from error
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ")
            event.listen(self._engine, "connect", _prepare_postgres)
            event.listen(self._engine, "handle_error", _leave)
        else:
            raise UsageError(
                f"the index lies in SQLite or PostgreSQL, not in {parsed.get_backend_name()}"
            )
        self._writer = self._engine.execution_options(**{_WRITER: True})
        event.listen(self._engine, "begin", self._begin)
        self._writing = Turns()
        self._clock = time.time() - time.monotonic()  # what to add to the latter
        self._clock_good_until = -math.inf
        self.url = parsed.render_as_string(hide_password=True)

    def time(self) -> float:
        """Seconds since 1970 by the clock that all replicas share: the database's, as it was seen
        at most a minute before the last transaction. Asks nobody."""
        return time.time() if self.sqlite_file is not None else time.monotonic() + self._clock

    def now(self) -> int:
        """`time` in whole seconds."""
        return int(self.time())

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A snapshot of the index."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction, the only writer while it lasts; rolled back when the block raises.
        Raises UnavailableError where others write for too long."""
        with self._turn(), Session(self._writer) as session, session.begin():
            # The lock comes first: what is read below cannot change before the commit.
            session.connection()
            yield session

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Writers of this process wait here for each other, and one connection for other
        processes' writers: those who read get the rest."""
        with self._writing.turn(BUSY_SECONDS) as came:
            if not came:
                raise UnavailableError(f"others have been writing the index for {BUSY_SECONDS} s")
            yield

    def migrate(self) -> None:
        """Bring the tables up to this version; safe when several processes start at once. Raises
        CommandError for tables of a newer version."""
        config = Config()
        folder = str(Path(__file__).with_name("migrations"))
        config.set_main_option("script_location", folder.replace("%", "%%"))
        with self._migration_lock():
            scripts = ScriptDirectory.from_config(config)
            found = self._revision(self._reader)
            _refuse_newer(found, scripts)
            if found == scripts.get_heads():
                return
            patient = self._writer.execution_options(**{_PATIENT: True})
            with patient.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    def analyze(self) -> None:
        """Let SQLite see which values are rare, now and then; PostgreSQL does so by itself."""
        if self.sqlite_file is not None:
            with self._turn(), self._writer.begin() as connection:
                connection.exec_driver_sql("PRAGMA analysis_limit = 1000")
                connection.exec_driver_sql("ANALYZE")

    def close(self) -> None:
        self._engine.dispose()

    def _migration_lock(self) -> AbstractContextManager[Any]:
        """PostgreSQL needs none: the writers' lock is held, and its DDL is transactional. SQLite
        cannot wait for the switch to WAL."""
        if self.sqlite_file is None:
            return nullcontext()
        return FileLock(f"{self.sqlite_file}.lock")

    def _begin(self, connection: Connection) -> None:
        options = connection.get_execution_options()
        writer = options.get(_WRITER, False)
        if self.sqlite_file is not None:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")
            return
        if options.get(_PATIENT, False):
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        if writer:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")
        if time.monotonic() >= self._clock_good_until:
            self._look_at_clock(connection)

    def _look_at_clock(self, connection: Connection) -> None:
        """A replica whose own clock is wrong must not end others' sessions and leases."""
        begin = time.monotonic()
        asked = connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())")
        seconds = float(asked.scalar_one())
        end = time.monotonic()
        self._clock, self._clock_good_until = seconds - (begin + end) / 2, end + _CLOCK_SECONDS

    def _revision(self, engine: Engine) -> list[str]:
        if self.sqlite_file is not None:
            with engine.connect() as connection:
                raw = connection.connection.driver_connection
                assert raw is not None
                raw.execute("PRAGMA journal_mode = WAL")
        with engine.connect() as connection:
            return list(MigrationContext.configure(connection).get_current_heads())


def _prepare_postgres(connection: Any, _record: Any) -> None:
    """A lock is waited for as long as a turn is. A replica that stops in a transaction, or whose
    machine is gone, does not keep the writers' lock for good."""
    connection.execute(
        f"SET lock_timeout = '{BUSY_SECONDS}s'; "
        f"SET idle_in_transaction_session_timeout = '{4 * BUSY_SECONDS}s'"
    )
    connection.commit()


# Of a server that became a standby, and of a connection that it has ended: another one is needed.
_OVER = {"25006", "25P03"}


def _leave(context: ExceptionContext) -> OperationalError | None:
    """Give up the pool's connections, as where the server is gone: it may be another one now."""
    error = context.original_exception
    if getattr(error, "sqlstate", None) not in _OVER:
        return None
    context.is_disconnect = True
    return OperationalError(context.statement, context.parameters, error)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # Transactions are begun by _begin, not by the driver.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys = ON")


def _refuse_newer(revisions: list[str], scripts: ScriptDirectory) -> None:
    unknown = set(revisions) - {one.revision for one in scripts.walk_revisions()}
    if unknown:
        raise CommandError(
            f"a newer aotcache has made its tables revision {', '.join(unknown)}, and this one "
            f"knows none after {scripts.get_current_head()}: run the newer one, or give this one "
            "the index as it was before, or an empty one, and `aotcache reindex` "
            "(docs/operations.md, Upgrade and rollback)"
        )
