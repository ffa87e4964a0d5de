"""A companion ends with its engine: a pull at once, outcomes when they are told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from aotcache.engines.vllm.jobs import Fetch, Tell
from aotcache.local.outcomes import keep_outcome
from aotcache.local.state import TreeState
from aotcache.probe.trees import tree_path
from aotcache.protocol.names import VLLM_AOT
from aotcache.protocol.v1.outcomes import Outcome
from support.trees import H100, RECIPE

PART = "rank_0_0-d0"


def _companion(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "aotcache.engines.vllm.companion"],
        env={**os.environ, "AOTCACHE_URL": url, "AOTCACHE_TRUST": "unsigned"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_a_pull_ends_with_the_engine(tmp_path: Path) -> None:
    """A service that hangs is waited for as long as somebody waits for the pull."""
    job = Fetch(
        cache_root=str(tmp_path),
        namespace="default",
        part=PART,
        platform=H100,
        recipe=RECIPE,
        hash="a" * 64,
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = _companion(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        process.stdin.flush()
        connection, _ = silent.accept()  # it has asked, and holds the lock
        with connection:
            process.stdin.close()
            assert process.wait(20) == 1
    with TreeState(tree_path(str(tmp_path), VLLM_AOT, "a" * 64)).locked(0):
        pass


def test_outcomes_are_told_after_the_engine_has_let_go(tmp_path: Path) -> None:
    path = tree_path(str(tmp_path), VLLM_AOT, "a" * 64)
    outcome = Outcome(
        layout=VLLM_AOT,
        hash="a" * 64,
        platform=H100.id,
        part=PART,
        generation=1,
        outcome="loaded",
    )
    keep_outcome(path, outcome)
    with socket.create_server(("127.0.0.1", 0)) as slow:
        process = _companion(f"http://127.0.0.1:{slow.getsockname()[1]}")
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(Tell(cache_root=str(tmp_path))) + b"\n")
        process.stdin.close()
        connection, _ = slow.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")
            assert process.wait(20) == 0
    assert not list(Path(TreeState(path).outcomes).iterdir())
