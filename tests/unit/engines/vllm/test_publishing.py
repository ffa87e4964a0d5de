"""What publishing from here may cost a start: nothing that it needs, and no zombie."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from aotcache.engines.vllm.facts import Facts
from aotcache.engines.vllm.modules import Module
from aotcache.engines.vllm.publisher import Publisher
from aotcache.engines.vllm.start import Start
from aotcache.local.node import engines_live, join_engines, node_file
from aotcache.probe.trees import tree_path
from aotcache.protocol.names import VLLM_AOT
from support.small import add

HOLD = """
import fcntl, sys, time
from aotcache.local import node

if sys.argv[1] == "publisher":
    node.be_publisher(sys.argv[2])
else:
    lock = node._lock(node.node_file(sys.argv[2], "engines.lock"), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""


@contextmanager
def _held(what: str, root: Path, seconds: float = 120.0) -> Iterator[None]:
    words = [sys.executable, "-c", HOLD, what, str(root), str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"held\n"
        yield
    finally:
        process.kill()
        process.communicate()


def test_an_engine_waits_out_a_publishers_look(tmp_path: Path) -> None:
    with _held("engines", tmp_path, seconds=0.2):
        join_engines(str(tmp_path))
    # Not from here: this process would look at its own lock.
    look = "import sys; from aotcache.local.node import engines_live as e; print(e(sys.argv[1]))"
    words = [sys.executable, "-c", look, str(tmp_path)]
    assert subprocess.check_output(words, text=True) == "True\n"
    assert not engines_live(str(tmp_path / "other"))


def test_a_publisher_that_is_not_needed_leaves_no_zombie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOTCACHE_PUBLISH", "1")
    monkeypatch.setenv("AOTCACHE_TRUST", "unsigned")
    with _held("publisher", tmp_path):
        publisher = Publisher(str(tmp_path))
        publisher.ensure()
        process = publisher._process
        assert process is not None
        end = time.monotonic() + 60
        while process.returncode is None and time.monotonic() < end:
            time.sleep(0.05)  # nobody asks
        assert process.returncode == 0
    log = tmp_path / ".aotcache/publisher.log"
    assert "another process publishes" in log.read_text()


@pytest.mark.parametrize(("more", "kept"), [(0, True), (1, False)])
def test_the_log_does_not_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int, kept: bool
) -> None:
    monkeypatch.setenv("AOTCACHE_PUBLISH", "1")
    monkeypatch.setenv("AOTCACHE_TRUST", "unsigned")
    log = Path(node_file(str(tmp_path), "publisher.log"))
    log.write_bytes(b"x" * (2**20 + more))
    with log.open("ab") as at_work, _held("publisher", tmp_path):
        publisher = Publisher(str(tmp_path))
        publisher.ensure()
        assert publisher._process is not None
        assert publisher._process.wait(60) == 0
        at_work.write(b"of the one at work\n")
    said = log.read_bytes()
    assert said.startswith(b"x" * 2**20) is kept
    assert b"another process publishes" in said
    assert said.endswith(b"of the one at work\n")
    assert b"\0" not in said


def test_what_lies_in_the_engines_directory_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("click", "msgspec", "runpy"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setenv("AOTCACHE_PUBLISH", "1")
    monkeypatch.setenv("AOTCACHE_TRUST", "unsigned")
    with _held("publisher", tmp_path):
        monkeypatch.chdir(tmp_path)
        publisher = Publisher(str(tmp_path))
        publisher.ensure()
        assert publisher._process is not None
        assert publisher._process.wait(60) == 0


@pytest.fixture
def start(tmp_path: Path, facts: Facts) -> Start:
    """One that has loaded a module from a cache root of which `.aotcache` is somebody's file."""
    begun = Start()
    begun._facts = facts
    begun._publisher = Publisher(str(tmp_path))
    path = tree_path(str(tmp_path), VLLM_AOT, "a" * 64)
    add(path, "rank_0_0/model", b"model")
    (Path(path).parent / ".aotcache").write_text("somebody's")
    compilation = SimpleNamespace(cache_dir="")
    model = SimpleNamespace(vllm_config=SimpleNamespace(compilation_config=compilation))
    module = Module(model, "backbone", path=f"{path}/rank_0_0/model", loaded=True)
    begun._modules.append(module)
    return begun


@pytest.mark.parametrize("publish", ["", "1"])
def test_records_that_cannot_be_written_do_not_undo_a_load(
    start: Start,
    publish: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was loaded, and that is said; that nothing is published only to who wants it."""
    caplog.set_level(logging.INFO, logger="vllm.aotcache")
    assert start._publisher is not None
    start._publisher.wanted = bool(publish)
    start.ended()
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("aotcache: on this disk already: backbone aaaaaaaaaaaa loaded in")
    assert not any("not used in this start" in text for text in said)
    assert len(said) == (2 if publish else 1)
    assert all("nothing is published from here" in text for text in said[1:])
