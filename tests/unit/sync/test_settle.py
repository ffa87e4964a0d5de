"""Looks at a tree on this disk, until its parts are complete."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from aotcache.core.settling import State
from aotcache.errors import LocalError
from aotcache.probe.trees import FoundTree
from aotcache.protocol.names import INDUCTOR, VLLM_JIT
from aotcache.sync.settle import TreeLooks
from support.small import add, small_tree


@pytest.fixture
def tree(tmp_path: Path) -> FoundTree:
    return small_tree(tmp_path, ranks=(0, 1))


def test_what_was_written_long_ago_is_complete_at_once(tree: FoundTree) -> None:
    looks = TreeLooks(tree)
    looks.look()
    assert (looks.complete, looks.waiting) == (["rank_0_0", "rank_1_0", "shared"], {})


def test_what_was_written_just_now_is_waited_for(tree: FoundTree) -> None:
    os.utime(Path(tree.path) / "rank_0_0/model")
    looks = TreeLooks(tree, quiet=0.3)
    looks.look()
    assert looks.complete == ["rank_1_0", "shared"]
    assert set(looks.waiting) == {"rank_0_0"}
    looks.wait(30)
    assert (looks.complete, looks.waiting) == (["rank_0_0", "rank_1_0", "shared"], {})


def test_a_wait_ends(tree: FoundTree) -> None:
    later = time.time() + 1000
    os.utime(Path(tree.path) / "rank_0_0/model", (later, later))
    looks = TreeLooks(tree, quiet=600)
    looks.wait(0.1)
    assert set(looks.waiting) == {"rank_0_0"}


def test_a_rank_without_its_model_is_empty_and_not_waited_for(tree: FoundTree) -> None:
    model = Path(tree.path) / "rank_1_0/model"
    model.unlink()
    looks = TreeLooks(tree, quiet=0.0)
    looks.wait(30)
    assert looks.complete == ["rank_0_0", "shared"]
    add(tree.path, "rank_1_0/model", b"")
    assert looks.look().left_out[0].path == "rank_1_0/model"
    assert looks.complete == ["rank_0_0", "shared"]
    add(tree.path, "rank_1_0/model", b"model")
    looks.wait(30)
    assert looks.complete == ["rank_0_0", "rank_1_0", "shared"]


def test_a_rank_that_went_is_empty(tree: FoundTree) -> None:
    looks = TreeLooks(tree, quiet=0.0)
    looks.look()
    (Path(tree.path) / "rank_1_0/model").unlink()
    looks.look()
    assert looks.states["rank_1_0"] is State.EMPTY
    assert looks.states["rank_0_0"] is State.COMPLETE


def test_layouts_whose_last_file_is_another(tmp_path: Path) -> None:
    jit = FoundTree(VLLM_JIT, "0123456789", str(tmp_path / "0123456789"))
    add(jit.path, "rank_0_0/backbone/computation_graph.py", b"graph")
    looks = TreeLooks(jit)
    looks.look()
    assert looks.states == {"rank_0_0": State.EMPTY}
    add(jit.path, "rank_0_0/backbone/vllm_compile_cache.py", b"{}")
    looks.wait(30)
    assert looks.complete == ["rank_0_0"]

    program = FoundTree(INDUCTOR, "train", str(tmp_path / "train"))
    add(program.path, "ab/cab.py", b"code")
    looks = TreeLooks(program)
    looks.look()
    assert looks.complete == ["shared"]


def test_a_tree_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="cannot read"):
        TreeLooks(FoundTree(INDUCTOR, "gone", str(tmp_path / "gone"))).look()
