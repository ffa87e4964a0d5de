"""Marks under races and failures: none is seen before it is locked, and one tree that cannot be
dealt with keeps no other's crash from being told."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from aotcache.errors import LocalError
from aotcache.local.loading import mark, poisoned, take_crashed
from aotcache.local.pulled import Note
from aotcache.local.state import TreeState
from aotcache.protocol.names import VLLM_AOT

NOTE = Note(
    namespace="default",
    layout=VLLM_AOT,
    hash="a" * 64,
    platform="b" * 32,
    part="rank_0_0-d0",
    generation=3,
    content="c" * 32,
)
OTHER = msgspec.structs.replace(NOTE, hash="e" * 64)

ENGINE = """
import os, signal, sys
import msgspec
from aotcache.local.loading import mark
from aotcache.local.pulled import Note

mark(sys.argv[1], msgspec.json.decode(sys.argv[2], type=Note))
os.kill(os.getpid(), signal.SIGKILL)
"""


def _crash(folder: Path, note: Note) -> str:
    tree = folder / note.hash
    tree.mkdir(exist_ok=True)
    words = [sys.executable, "-c", ENGINE, str(tree), msgspec.json.encode(note).decode()]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    return str(tree)


def test_a_mark_is_locked_before_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a start that looks at that moment takes a load in progress for a crash."""
    tree = str(tmp_path / NOTE.hash)
    seen: list[list[Note]] = []
    lock = fcntl.lockf

    def look_and_lock(fd: int, kind: int) -> None:
        seen.append(take_crashed(str(tmp_path)))
        lock(fd, kind)

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "lockf", look_and_lock)
        mine = mark(tree, NOTE)
    assert seen == [[]]
    assert os.listdir(TreeState(tree).loading) == [os.path.basename(mine.path)]
    mine.lift()
    assert os.listdir(TreeState(tree).loading) == []


def test_a_mark_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = str(tmp_path / NOTE.hash)
    before = set(os.listdir("/proc/self/fd"))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(LocalError, match="No space left"):
            mark(tree, NOTE)
    assert os.listdir(TreeState(tree).loading) == []
    assert set(os.listdir("/proc/self/fd")) == before


def test_one_tree_that_cannot_be_moved_hides_no_other_crash(tmp_path: Path) -> None:
    first, second = _crash(tmp_path, NOTE), _crash(tmp_path, OTHER)
    # The second is told of; somebody's file is where its poison is to be written.
    Path(TreeState(second).poison).mkdir(parents=True)
    assert take_crashed(str(tmp_path)) == [NOTE]
    assert poisoned(first) == {NOTE.content}
    with pytest.raises(LocalError):
        take_crashed(str(tmp_path))
    Path(TreeState(second).poison).rmdir()
    assert take_crashed(str(tmp_path)) == [OTHER]
