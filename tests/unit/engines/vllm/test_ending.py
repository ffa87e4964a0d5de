"""Signals to end while a start loads: whoever listened is called, and it is no crash."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aotcache.local.loading import take_crashed

START = """
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from aotcache.engines.vllm import start as engine
from aotcache.engines.vllm.facts import Facts
from aotcache.local.pulled import Note, write_note
from aotcache.probe.platform import Detected
from aotcache.probe.trees import tree_path
from aotcache.protocol.names import VLLM_AOT
from support.trees import H100, RECIPE

root, noted = sys.argv[1], []
start = engine.Start()
start._facts = Facts(cache_root=root, part="rank_0_0-d0", expected_parts=(), recipe=RECIPE,
                     detected=Detected(platform=H100, notes={}))

def load(letter):
    path = tree_path(root, VLLM_AOT, letter * 64)
    model = Path(path, "rank_0_0/model")
    model.parent.mkdir(parents=True)
    model.write_bytes(b"model")
    write_note(path, Note(namespace="default", layout=VLLM_AOT, hash=letter * 64,
        platform=H100.id, part="rank_0_0-d0", generation=1, content=letter * 32))
    module = engine.Module(SimpleNamespace(vllm_config=None), letter)
    start._modules.append(module)
    start.before_load(module.model, str(model))

def marks():
    return len(list(Path(root).rglob("loading/*/*.json")))
"""


def _run(tmp_path: Path, program: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", START + program, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Error" not in done.stderr, done.stderr
    return done


def _crashed(tmp_path: Path) -> int:
    return len(take_crashed(str(tmp_path / "torch_compile_cache/torch_aot_compile")))


@pytest.mark.parametrize("asked", [True, False])
def test_an_engine_that_only_notes_it_and_is_killed_has_not_crashed(
    tmp_path: Path, asked: bool
) -> None:
    """As vLLM's does, which goes on with the next module."""
    ask = "os.kill(os.getpid(), signal.SIGTERM)" if asked else ""
    done = _run(
        tmp_path,
        f"""
signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
load("a")
print(marks(), flush=True)
{ask}
load("b")
print(marks(), len(noted), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert done.stdout.splitlines() == ["1", "0 1" if asked else "2 0"]
    assert done.returncode == -signal.SIGKILL
    assert _crashed(tmp_path) == (0 if asked else 2)


def test_a_process_that_nothing_listens_for_ends_by_the_signal(tmp_path: Path) -> None:
    done = _run(tmp_path, "load('a')\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n")
    assert done.returncode == -signal.SIGTERM
    assert _crashed(tmp_path) == 0


def test_a_forked_child_is_not_the_engine(tmp_path: Path) -> None:
    done = _run(
        tmp_path,
        """
load("a")
child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGTERM)
print(os.waitpid(child, 0)[1], marks())
start._left()
""",
    )
    assert done.stdout.split() == [str(int(signal.SIGTERM)), "1"]


def test_who_took_over_and_calls_on_reaches_who_was_there_first(tmp_path: Path) -> None:
    done = _run(
        tmp_path,
        """
signal.signal(signal.SIGTERM, lambda number, frame: noted.append("first"))
load("a")
ours = signal.getsignal(signal.SIGTERM)
signal.signal(signal.SIGTERM, lambda number, frame: (noted.append("other"), ours(number, frame)))
start._ending.forget()
os.kill(os.getpid(), signal.SIGTERM)
signal.signal(signal.SIGTERM, ours)
load("b")
os.kill(os.getpid(), signal.SIGTERM)
print(noted)
""",
    )
    assert done.stdout.strip() == "['other', 'first', 'first']"


def test_signals_are_as_before_when_the_start_has_ended(tmp_path: Path) -> None:
    done = _run(
        tmp_path,
        """
def listens(number, frame): ...
signal.signal(signal.SIGTERM, listens)
before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in a shell's background
load("a")
print(signal.getsignal(signal.SIGTERM) is listens)
start._ending.forget()
print(signal.getsignal(signal.SIGTERM) is listens)
print(signal.getsignal(signal.SIGINT) is before)
load("b")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
start._ending.forget()
print(signal.getsignal(signal.SIGTERM) is signal.SIG_IGN)
start._left()
""",
    )
    assert done.stdout.split() == ["False", "True", "True", "True"]
