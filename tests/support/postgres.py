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


@dataclass(frozen=True, slots=True)
class Cluster:
    """The files of a server, which can be started again and again."""

    folder: Path
    server: PostgresServer
    user: str | None

    @contextmanager
    def running(self, stop: signal.Signals = signal.SIGINT) -> Iterator[PostgresServer]:
        """stop: how it is told to end. SIGINT: without waiting for connections that tests left
        open. SIGQUIT: at once, as if it had crashed."""
        command = [str(binaries() / "postgres"), "-D", str(self.folder / "data")]
        command += ["-p", str(self.server.port), "-k", str(self.folder)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        up = self.server.answers
        with running(command, self.folder / "log", up, user=self.user, stop=stop):
            yield self.server


@contextmanager
def new_cluster() -> Iterator[Cluster]:
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    (port,) = free_ports(1)
    with work_folder("postgres") as folder:
        if user:
            shutil.chown(folder, user)
        make = [str(binaries() / "initdb"), "-D", str(folder / "data"), "-U", "postgres"]
        make += ["-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"]
        subprocess.run(make, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)
        yield Cluster(folder, PostgresServer(port), user)


@contextmanager
def run_postgres() -> Iterator[PostgresServer]:
    with new_cluster() as cluster, cluster.running() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with run_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    return postgres.fresh_url()
