"""A real PostgreSQL: `postgres_url`, a fresh database a test on one server a session."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from support.process import free_ports, running, work_folder

DEBIAN = Path("/usr/lib/postgresql")


def binaries() -> Path:
    """The directory of the newest server that is installed."""
    found = [folder / "bin" for folder in DEBIAN.glob("*") if (folder / "bin/initdb").exists()]
    if not found and (program := shutil.which("initdb")):
        return Path(program).resolve().parent
    assert found, "PostgreSQL's server is missing: apt-get install postgresql (Debian)"
    return max(found, key=lambda folder: int(re.sub(r"\D", "", folder.parent.name) or 0))


@dataclass(frozen=True, slots=True)
class PostgresServer:
    port: int

    def fresh_url(self) -> str:
        """SQLAlchemy's URL of a new, empty database."""
        name = f"test_{uuid.uuid4().hex}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        place = f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres connect_timeout=2"
        return psycopg.connect(place, autocommit=True)


@contextmanager
def run_postgres() -> Iterator[PostgresServer]:
    programs = binaries()
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    (port,) = free_ports(1)
    with work_folder("postgres") as folder:
        if user:
            shutil.chown(folder, user)
        data = str(folder / "data")
        make = [str(programs / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"]
        make += ["-E", "UTF8", "--locale=C.UTF-8"]
        subprocess.run(make, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)
        command = [str(programs / "postgres"), "-D", data, "-p", str(port), "-k", str(folder)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        server = PostgresServer(port)
        # SIGINT: end now, without waiting for connections that tests left open.
        with running(command, folder / "log", server.answers, user=user, stop=signal.SIGINT):
            yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with run_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    return postgres.fresh_url()
