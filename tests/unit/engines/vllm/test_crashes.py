"""What counts as a crash: the marks that a failing start leaves for the next one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from aotcache.engines.vllm.failures import lacks_memory
from aotcache.engines.vllm.modules import Module
from aotcache.engines.vllm.start import Start
from aotcache.local.loading import mark
from aotcache.local.pulled import Note
from aotcache.local.state import TreeState
from aotcache.protocol.names import VLLM_AOT


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


@pytest.fixture
def start(trees: dict[str, str]) -> Start:
    """One that has loaded two pulled modules; the draft is the last of them."""
    begun = Start()
    for name, path in trees.items():
        module = Module(SimpleNamespace(), name, path=f"{path}/rank_0_0/model")
        note = Note(
            namespace="default",
            layout=VLLM_AOT,
            hash=Path(path).name,
            platform="c" * 32,
            part="rank_0_0-d0",
            generation=1,
            content="d" * 32,
        )
        begun._marks._marks.append((module, mark(path, note)))
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
