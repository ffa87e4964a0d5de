"""Marks of loads: a process that dies with a pulled part is noticed once, and what it loaded is
poison from then on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from aotcache.errors import LocalError
from aotcache.local.loading import _boot, mark, poisoned, take_crashed
from aotcache.local.pulled import Note, read_note, write_note
from aotcache.local.state import TreeState
from aotcache.protocol.names import VLLM_AOT
from support.small import add

NOTE = Note(
    namespace="default",
    layout=VLLM_AOT,
    hash="a" * 64,
    platform="b" * 32,
    part="rank_0_0-d0",
    generation=3,
    content="c" * 32,
)
OTHER = msgspec.structs.replace(NOTE, part="rank_1_0-d1", content="d" * 32)

ENGINE = """
import sys, time
import msgspec
from aotcache.local.loading import mark
from aotcache.local.pulled import Note

mark(sys.argv[1], msgspec.json.decode(sys.argv[2], type=Note))
print("marked", flush=True)
time.sleep(120)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / NOTE.hash
    add(path, "rank_0_0/model", b"poison")
    write_note(str(path), NOTE)
    return path


@contextmanager
def _engine(tree: Path, note: Note = NOTE) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has marked its load and is at it."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENGINE, str(tree), msgspec.json.encode(note).decode()],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"marked\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _crash(tree: Path, note: Note = NOTE) -> None:
    with _engine(tree, note) as engine:
        engine.send_signal(signal.SIGKILL)


def _marks(tree: Path) -> list[str]:
    folder = TreeState(str(tree)).loading
    return os.listdir(folder) if os.path.isdir(folder) else []


def test_a_killed_process_is_found_once(tree: Path) -> None:
    _crash(tree)
    assert take_crashed(str(tree.parent)) == [NOTE]
    assert take_crashed(str(tree.parent)) == []
    assert poisoned(str(tree)) == {NOTE.content}
    assert _marks(tree) == []


def test_the_tree_is_moved_aside(tree: Path) -> None:
    _crash(tree)
    take_crashed(str(tree.parent))
    assert not tree.exists()
    aside = tree.parent / ".aotcache/crashed" / tree.name
    assert TreeState(str(tree)).crashed == str(aside)
    assert (aside / "rank_0_0/model").read_bytes() == b"poison"
    assert read_note(str(tree), NOTE.part) is None
    # What is compiled then and crashes again takes its place.
    add(tree, "rank_0_0/model", b"second")
    _crash(tree, OTHER)
    take_crashed(str(tree.parent))
    assert (aside / "rank_0_0/model").read_bytes() == b"second"
    assert poisoned(str(tree)) == {NOTE.content, OTHER.content}


def test_a_living_process_is_let_be(tree: Path) -> None:
    with _engine(tree) as engine:
        assert take_crashed(str(tree.parent)) == []
        assert tree.exists()
        engine.kill()
        engine.wait()
        assert take_crashed(str(tree.parent)) == [NOTE]


def test_a_living_rank_keeps_its_mark_when_another_has_died(tree: Path) -> None:
    with _engine(tree, OTHER) as engine:
        _crash(tree)
        assert take_crashed(str(tree.parent)) == [NOTE]
        (left,) = _marks(tree)
        assert left.startswith("rank_1_0-d1")
        engine.kill()
        engine.wait()
        assert take_crashed(str(tree.parent)) == [OTHER]


def test_a_lifted_mark_is_no_crash(tree: Path) -> None:
    mark(str(tree), NOTE).lift()
    assert _marks(tree) == []
    assert take_crashed(str(tree.parent)) == []
    assert tree.exists()


def test_looking_does_not_free_the_own_mark(tree: Path) -> None:
    """A record lock is gone with the first descriptor of its file that the process closes."""
    mine = mark(str(tree), NOTE)
    try:
        assert take_crashed(str(tree.parent)) == []
        assert _ask_elsewhere(tree) == []
    finally:
        mine.lift()


def test_a_forked_child_neither_holds_nor_frees_a_mark(tree: Path) -> None:
    mine = mark(str(tree), NOTE)
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os._exit(len(take_crashed(str(tree.parent))))
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _ask_elsewhere(tree) == []
    mine.lift()


ASK = """
import sys
import msgspec
from aotcache.local.loading import take_crashed

sys.stdin.readline()
sys.stdout.buffer.write(msgspec.json.encode(take_crashed(sys.argv[1])))
"""


def _ask_elsewhere(tree: Path, count: int = 1) -> list[Note]:
    """What several processes that ask at once are given."""
    asking = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, str(tree.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(count)
    ]
    for process in asking:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0] for process in asking]
    assert [process.returncode for process in asking] == [0] * count
    return [note for text in said for note in msgspec.json.decode(text, type=list[Note])]


def test_several_that_ask_at_once_get_each_crash_once(tree: Path) -> None:
    with _engine(tree), _engine(tree, OTHER):
        pass  # both are killed
    found = _ask_elsewhere(tree, 4)
    assert sorted(found, key=lambda note: note.part) == [NOTE, OTHER]
    assert not tree.exists()


def test_a_mark_that_says_nothing_is_of_one_who_loaded_nothing(tree: Path) -> None:
    folder = Path(TreeState(str(tree)).loading)
    folder.mkdir(parents=True)
    (folder / f"rank_0_0-d0.{_boot()}.00000000.json").write_bytes(b"")
    (folder / f"rank_0_0-d0.{_boot()}.11111111.json").write_bytes(b'{"half')
    assert take_crashed(str(tree.parent)) == []
    assert _marks(tree) == []
    assert tree.exists()


def test_a_mark_of_another_node_is_left_to_it(tree: Path) -> None:
    """On a file system that nodes share, its lock may be known there alone."""
    folder = Path(TreeState(str(tree)).loading)
    folder.mkdir(parents=True)
    (folder / "rank_0_0-d0.another0.00000000.json").write_bytes(msgspec.json.encode(NOTE))
    assert take_crashed(str(tree.parent)) == []
    assert len(list(folder.iterdir())) == 1
    assert tree.exists()


def test_a_planted_link_is_not_followed(tree: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(msgspec.json.encode(NOTE))
    folder = Path(TreeState(str(tree)).loading)
    folder.mkdir(parents=True)
    (folder / f"rank_0_0-d0.{_boot()}.00000000.json").symlink_to(victim)
    assert take_crashed(str(tree.parent)) == []
    assert victim.exists()


def test_a_crash_whose_tree_is_gone_already(tree: Path) -> None:
    _crash(tree)
    (tree / "rank_0_0/model").unlink()
    (tree / "rank_0_0").rmdir()
    tree.rmdir()
    assert take_crashed(str(tree.parent)) == [NOTE]
    assert poisoned(str(tree)) == {NOTE.content}


def test_no_marks_no_poison(tmp_path: Path) -> None:
    assert take_crashed(str(tmp_path / "nowhere")) == []
    assert poisoned(str(tmp_path / "tree")) == frozenset()
    state = TreeState(str(tmp_path / "tree"))
    Path(state.poison).parent.mkdir(parents=True)
    Path(state.poison).write_bytes(b"no list")
    assert poisoned(str(tmp_path / "tree")) == frozenset()


def test_a_mark_that_cannot_be_made_is_an_error(tree: Path) -> None:
    state = TreeState(str(tree))
    Path(state.loading).parent.mkdir(parents=True)
    Path(state.loading).write_bytes(b"in the way")
    with pytest.raises(LocalError, match="loading"):
        mark(str(tree), NOTE)


def test_a_tree_that_cannot_be_moved_is_an_error_and_stays_a_crash(tree: Path) -> None:
    _crash(tree)
    crashed = tree.parent / ".aotcache/crashed"
    crashed.write_bytes(b"in the way")
    with pytest.raises(LocalError):
        take_crashed(str(tree.parent))
    assert poisoned(str(tree)) == {NOTE.content}
    crashed.unlink()
    assert take_crashed(str(tree.parent)) == [NOTE]
    assert not tree.exists()


def test_notes_of_another_tree_in_the_same_folder_stay(tree: Path) -> None:
    beside = tree.parent / ("e" * 64)
    add(beside, "rank_0_0/model", b"good")
    note = msgspec.structs.replace(NOTE, hash=beside.name)
    write_note(str(beside), note)
    _crash(tree)
    assert take_crashed(str(tree.parent)) == [NOTE]
    assert beside.exists()
    assert read_note(str(beside), NOTE.part) == note
    assert poisoned(str(beside)) == frozenset()
