from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from aotcache.storage import open_store
from aotcache_service.commands import reindex, serve
from support.stored import put_part

SERVE = "from aotcache_service.commands import serve; serve()"
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
    assert "no tokens yet" in result.output


def test_serve_says_when_the_port_is_taken(tmp_path: Path) -> None:
    with serving(AOTCACHE_DATA_DIR=str(tmp_path / "a")) as (_, line):
        found = LINE.fullmatch(line)
        assert found, line
        port = found[1].rsplit(":", 1)[1]
        result = CliRunner().invoke(serve, ["--data-dir", str(tmp_path / "b"), "--port", port])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in result.output


def test_reindex(tmp_path: Path) -> None:
    store = open_store((tmp_path / "objects").as_uri())
    put_part(store)
    store.close()
    arguments = ["--data-dir", str(tmp_path)]
    result = CliRunner().invoke(reindex, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"trees": 1, "parts": 1, "skipped": 0}
    assert "1 trees, 1 parts" in CliRunner().invoke(reindex, arguments).stdout
