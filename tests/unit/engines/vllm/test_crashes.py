"""What counts as a crash: the marks that a failing start leaves for the next one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from aotcache.engines.vllm.facts import Facts
from aotcache.engines.vllm.failures import lacks_memory
from aotcache.engines.vllm.modules import Module
from aotcache.engines.vllm.start import Start
from aotcache.local.loading import has_crashed, mark, take_crashed
from aotcache.local.pulled import Note
from aotcache.local.state import STATE_DIRECTORY, TreeState
from aotcache.protocol.names import VLLM_AOT
from support.small import add


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def _instead() -> RuntimeError:
    """As vLLM 0.32 does where its sampler is warmed up."""
    try:
        raise OutOfMemoryError("tried to allocate 2 GiB")
    except OutOfMemoryError as error:
        instead = RuntimeError("please lower max_num_seqs")
        instead.__cause__ = error
        return instead


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (OutOfMemoryError("2 GiB"), True),
        (_instead(), True),
        (RuntimeError("CUDA out of memory occurred when warming up sampler"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_a_lack_of_memory_is_known_in_all_its_forms(error: Exception, lacks: bool) -> None:
    assert lacks_memory(error) is lacks


@pytest.fixture
def trees(tmp_path: Path) -> dict[str, str]:
    return {name: str(tmp_path / (letter * 64)) for name, letter in (("main", "a"), ("draft", "b"))}


def _note(tree_path: str) -> Note:
    return Note(
        namespace="default",
        layout=VLLM_AOT,
        hash=Path(tree_path).name,
        platform="c" * 32,
        part="rank_0_0-d0",
        generation=1,
        content="d" * 32,
    )


@pytest.fixture
def start(trees: dict[str, str]) -> Start:
    """One that has loaded two pulled modules; the draft is the last of them."""
    begun = Start()
    for name, path in trees.items():
        module = Module(SimpleNamespace(), name, path=f"{path}/rank_0_0/model")
        begun._marks._marks.append((module, mark(path, _note(path))))
        begun._current = module
    return begun


def _left(start: Start, trees: dict[str, str]) -> set[str]:
    """Names of the trees whose marks are still there when the process has ended in order."""
    start._left()
    return {name for name, path in trees.items() if list(Path(TreeState(path).loading).iterdir())}


def test_a_first_run_that_fails_is_the_doing_of_the_module_that_ran(
    start: Start, trees: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="of the draft"), start.running(first=True):
        raise ValueError("of the draft")
    assert _left(start, trees) == {"draft"}


def test_a_warm_up_that_fails_may_be_any_modules_doing(start: Start, trees: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="of one"), start.running():
        raise ValueError("of one")
    assert _left(start, trees) == {"main", "draft"}


def test_a_lack_of_memory_is_nobodys(start: Start, trees: dict[str, str]) -> None:
    with pytest.raises(RuntimeError), start.running():
        raise _instead()
    assert _left(start, trees) == set()


CRASH = """
import os, sys
import msgspec
from aotcache.local.loading import has_crashed, mark, take_crashed
from aotcache.local.pulled import Note

mark(sys.argv[1], msgspec.json.decode(sys.argv[2], type=Note))
os._exit(1)
"""


def test_a_crash_that_could_not_be_dealt_with_is_not_loaded_again(
    tmp_path: Path, facts: Facts
) -> None:
    path = add(tmp_path / ("a" * 64), "rank_0_0/model", b"crashes")
    tree_path = str(path.parents[1])
    note = msgspec.json.encode(_note(tree_path)).decode()
    subprocess.run([sys.executable, "-c", CRASH, tree_path, note], check=False)
    start = Start()
    start._facts = facts
    start._modules.append(Module(SimpleNamespace(), "backbone"))
    assert start.before_load(start._modules[0].model, str(path))
    assert "crash" in start._modules[0].why
    assert start._fetching._companion._process is None
    take_crashed(str(tmp_path))
    assert not path.exists()


def test_where_our_directory_is_anothers_no_crash_is_seen(tmp_path: Path) -> None:
    (tmp_path / STATE_DIRECTORY).write_text("somebody's file")
    assert not has_crashed(str(tmp_path / ("a" * 64)))
