from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from aotcache.storage import open_store
from aotcache_service.commands.reindex import reindex
from aotcache_service.commands.serve import serve
from aotcache_service.index.database import Database
from support.process import free_ports, work_folder
from support.stored import put_part

SERVE = "from aotcache_service.commands.serve import serve; serve()"
LINE = re.compile(
    r"aotcache service listening on (http://127\.0\.0\.1:\d+) \(index: (.+), objects: (.+)\)\n"
)


@contextmanager
def serving(**environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **environment,
        },
    )
    try:
        assert process.stderr is not None
        yield process, process.stderr.readline()
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_serve_says_where_it_listens(tmp_path: Path) -> None:
    with serving(AOTCACHE_DATA_DIR=str(tmp_path / "data")) as (process, line):
        found = LINE.fullmatch(line)
        assert found, line
        assert found[2] == f"sqlite:///{tmp_path}/data/index.sqlite3"
        assert found[3] == f"file://{tmp_path}/data/objects"
        with urllib.request.urlopen(f"{found[1]}/readyz", timeout=30) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)


def test_more_nodes_connect_than_a_shell_allows_files(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        with serving(AOTCACHE_DATA_DIR=str(tmp_path / "data")) as (_, line), ExitStack() as waiting:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            found = LINE.fullmatch(line)
            assert found, line
            place = found[1].removeprefix("http://").split(":")
            for _ in range(200):
                waiting.enter_context(socket.create_connection((place[0], int(place[1]))))
            with urllib.request.urlopen(f"{found[1]}/readyz", timeout=30) as answer:
                assert answer.status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_two_services_share_a_database(tmp_path: Path, postgres_url: str) -> None:
    shared = {
        "AOTCACHE_DATABASE_URL": postgres_url,
        "AOTCACHE_STORAGE_URL": (tmp_path / "objects").as_uri(),
    }
    with (
        serving(AOTCACHE_DATA_DIR=str(tmp_path / "a"), **shared) as (_, one),
        serving(AOTCACHE_DATA_DIR=str(tmp_path / "b"), **shared) as (_, two),
    ):
        for line in (one, two):
            found = LINE.fullmatch(line)
            assert found, line
            with urllib.request.urlopen(f"{found[1]}/v1/trees", timeout=30) as answer:
                assert json.load(answer)["trees"] == []


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_serve_refuses_to_listen_for_everybody(tmp_path: Path, host: str) -> None:
    result = CliRunner().invoke(serve, ["--data-dir", str(tmp_path), "--host", host])
    assert result.exit_code == 2
    assert "there is no token" in result.output


def test_serve_says_when_the_port_is_taken(tmp_path: Path) -> None:
    with serving(AOTCACHE_DATA_DIR=str(tmp_path / "a")) as (_, line):
        found = LINE.fullmatch(line)
        assert found, line
        port = found[1].rsplit(":", 1)[1]
        result = CliRunner().invoke(serve, ["--data-dir", str(tmp_path / "b"), "--port", port])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in result.output


def failed(arguments: list[str], *, as_nobody: bool = False) -> str:
    """The one line that `serve` says before it exits with 1; as a user who may write nothing."""
    code = "import sys, os\nfrom aotcache_service.commands.serve import serve\n"
    if as_nobody and os.geteuid() == 0:
        code += "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}serve()", "--port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    return line


def test_serve_says_why_the_database_cannot_be_used(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    data = ["--data-dir", str(tmp_path / "data"), "--database-url"]
    line = failed([*data, f"postgresql://me:secret@127.0.0.1:{port}/x"])
    assert f"the index's database postgresql://me:***@127.0.0.1:{port}/x cannot be used" in line
    assert "refused" in line
    other = tmp_path / "other"
    other.write_bytes(b"no database at all" * 1000)
    assert "not a database" in failed([*data, f"sqlite:///{other}"])
    newer = tmp_path / "newer"
    with closing(sqlite3.connect(newer)) as db:
        db.executescript(
            "CREATE TABLE alembic_version (version_num TEXT);"
            "INSERT INTO alembic_version VALUES ('9999')"
        )
    line = failed([*data, f"sqlite:///{newer}"])
    assert "a newer aotcache has made its tables revision 9999" in line
    assert "aotcache reindex" in line


def test_serve_says_which_directory_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"cannot write {tmp_path}/file" in failed(["--data-dir", str(tmp_path / "file/below")])
    line = failed(["--data-dir", str(tmp_path), "--storage-url", f"file://{tmp_path}/file"])
    assert f"{tmp_path}/file" in line


@pytest.mark.parametrize("locked", ["", "index.sqlite3", "objects"])
def test_serve_without_permission_to_write(locked: str) -> None:
    with work_folder("locked") as folder:
        data = folder / "data"
        (data / "objects").mkdir(parents=True)
        database = Database(f"sqlite:///{data}/index.sqlite3")
        database.migrate()
        database.close()
        for path in (data, *data.iterdir()):
            path.chmod(0o777)
        (data / locked).chmod(0o555)
        line = failed(["--data-dir", str(data)], as_nobody=True)
        assert f"cannot write {data / locked}" in line
        (data / locked).chmod(0o755)


def test_reindex(tmp_path: Path) -> None:
    store = open_store((tmp_path / "objects").as_uri())
    put_part(store)
    store.close()
    arguments = ["--data-dir", str(tmp_path)]
    result = CliRunner().invoke(reindex, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["trees"], said["parts"], said["skipped"]) == (1, 1, [])
    assert "1 trees, 1 parts" in CliRunner().invoke(reindex, arguments).stdout
