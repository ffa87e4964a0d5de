"""Notes of pulls: what of a part the engine loads, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aotcache.errors import FormatError, InvalidNameError
from aotcache.local.pulled import Note, read_note, write_note
from aotcache.local.state import TreeState
from aotcache.protocol.content import content_of
from aotcache.protocol.manifest import FileEntry

NOTE = Note(
    namespace="default",
    layout="vllm-aot",
    hash="a" * 64,
    platform="b" * 32,
    part="rank_0_0-d0",
    generation=1,
    content="c" * 32,
    recipe="d" * 32,
    seconds=1.5,
    bytes=1000,
    compile_seconds=40.0,
)


def _entry(path: str, digest: str = "1" * 64) -> FileEntry:
    return FileEntry(path, 10, 0o644, digest)


def test_notes_come_back_and_lie_beside_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    assert read_note(str(tree), NOTE.part) is None
    second = msgspec.structs.replace(
        NOTE, part="rank_1_0-d1", compile_seconds=None, outcome="loaded"
    )
    write_note(str(tree), second)
    write_note(str(tree), NOTE)
    assert read_note(str(tree), NOTE.part) == NOTE
    assert read_note(str(tree), second.part) == second
    assert list(tree.iterdir()) == []


def test_the_last_pull_of_a_part_counts(tmp_path: Path) -> None:
    write_note(str(tmp_path / "tree"), msgspec.structs.replace(NOTE, outcome="loaded"))
    write_note(str(tmp_path / "tree"), NOTE)
    note = read_note(str(tmp_path / "tree"), NOTE.part)
    assert note is not None
    assert note.outcome == ""


def test_a_note_that_cannot_be_read(tmp_path: Path) -> None:
    tree = str(tmp_path / "tree")
    write_note(tree, msgspec.structs.replace(NOTE, part="rank_1_0-d1"))
    Path(TreeState(tree).pulled, "rank_0_0-d0.json").write_bytes(b"{}")
    with pytest.raises(FormatError):
        read_note(tree, "rank_0_0-d0")
    assert read_note(tree, "rank_1_0-d1") is not None


def test_a_part_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidNameError):
        read_note(str(tmp_path / "tree"), "../../etc/passwd")
    with pytest.raises(InvalidNameError):
        write_note(str(tmp_path / "tree"), msgspec.structs.replace(NOTE, part="../x"))


def test_content_is_what_the_engine_loads() -> None:
    model = _entry("rank_0_0/model")
    known = content_of([model])
    assert len(known) == 32
    # Growth does not change it, whatever the order; another model does.
    grown = [_entry("rank_0_0/notes.json", "2" * 64), model]
    assert content_of(grown) == content_of(reversed(grown)) == known
    assert content_of([_entry("rank_0_0/model", "3" * 64)]) != known
    assert content_of([_entry("rank_1_0/model")]) != known


def test_content_of_the_older_loader_is_its_handles() -> None:
    handles = [
        _entry("rank_0_0/backbone/vllm_compile_cache.py"),
        _entry("rank_0_0/eagle_head/vllm_compile_cache.py", "2" * 64),
    ]
    known = content_of(handles)
    assert known
    assert content_of([*handles, _entry("rank_0_0/backbone/artifact_1", "4" * 64)]) == known
    assert content_of(handles[:1]) not in ("", known)


def test_a_part_of_which_nothing_is_loaded_has_no_content() -> None:
    assert content_of([]) == ""
    assert content_of([_entry("inductor_cache/ab/cabc.main.so")]) == ""
    assert content_of([_entry("inductor_cache/ab/model.py")]) == ""
