"""Digests of a tree's files, which are read again only where they have changed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aotcache.core.framing import digest_of
from aotcache.core.limits import MAX_BLOB
from aotcache.core.relocation import MAX_RELOCATED
from aotcache.errors import NotSettledError
from aotcache.local.state import TreeState
from aotcache.probe.trees import FoundTree, ScannedFile, scan_tree
from aotcache.protocol.manifest import BY_DIRECTORY
from aotcache.sync import describe as describing
from aotcache.sync import helper
from aotcache.sync.describe import describe
from support.small import add, small_tree

_listening: list[list[str]] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _listening:
        _listening[-1].append(str(arguments[0]))


sys.addaudithook(_hear)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every path opened during the test."""
    heard: list[str] = []
    _listening.append(heard)
    yield heard
    _listening.pop()


@pytest.fixture
def tree(tmp_path: Path) -> FoundTree:
    return small_tree(tmp_path)


def _of_tree(opened: list[str], tree: FoundTree) -> list[str]:
    found = sorted(
        os.path.relpath(path, tree.path) for path in opened if path.startswith(tree.path + "/")
    )
    opened.clear()
    return found


def test_each_file_is_read_once(tree: FoundTree, opened: list[str]) -> None:
    files = scan_tree(tree.layout, tree.path).files
    first, left_out = describe(tree, files)
    assert left_out == []
    assert _of_tree(opened, tree) == [file.path for file in files] == sorted(first)
    assert describe(tree, files) == (first, [])
    assert _of_tree(opened, tree) == []


def test_digests_are_of_the_location_free_bytes(tree: FoundTree, tmp_path: Path) -> None:
    files = scan_tree(tree.layout, tree.path).files
    here, _ = describe(tree, files)
    model = (Path(tree.path) / "rank_0_0/model").read_bytes()
    assert here["rank_0_0/model"].digest == digest_of(model)
    there = small_tree(tmp_path / "elsewhere")
    moved, _ = describe(there, scan_tree(there.layout, there.path).files)
    assert {path: item.digest for path, item in moved.items()} == {
        path: item.digest for path, item in here.items()
    }
    (group,) = (path for path in here if "__grp__" in path)
    assert here[group].relocate == BY_DIRECTORY


def test_a_changed_file_is_read_again(tree: FoundTree, opened: list[str]) -> None:
    before, _ = describe(tree, scan_tree(tree.layout, tree.path).files)
    path = "inductor_cache/ab/cabcdef.py"
    old = (Path(tree.path) / path).read_bytes()
    (Path(tree.path) / path).write_bytes(old.replace(b"code", b"edoc"))
    opened.clear()
    after, _ = describe(tree, scan_tree(tree.layout, tree.path).files)
    assert _of_tree(opened, tree) == [path]
    assert {name for name in after if after[name] != before[name]} == {path}


def test_the_memo_is_of_the_whole_tree(tree: FoundTree, opened: list[str]) -> None:
    files = scan_tree(tree.layout, tree.path).files
    for folder in ("shared", "rank_0_0"):
        describe(tree, [file for file in files if file.part_dir == folder])
    opened.clear()
    describe(tree, files)
    assert _of_tree(opened, tree) == []


def test_a_path_that_leads_outside_is_left_out(tree: FoundTree) -> None:
    group = "inductor_cache/triton/0/OUTSIDEOUTSIDEOUTSIDE/__grp__k.json"
    add(tree.path, group, b'{"child_paths": {"k": "/etc/passwd"}}')
    files = scan_tree(tree.layout, tree.path).files
    described, left_out = describe(tree, files)
    assert [item.path for item in left_out] == [group]
    assert "/etc/passwd" in left_out[0].reason
    assert set(described) == {file.path for file in files} - {group}


def test_a_file_that_went_away(tree: FoundTree) -> None:
    files = scan_tree(tree.layout, tree.path).files
    os.unlink(os.path.join(tree.path, files[0].path))
    with pytest.raises(NotSettledError, match=files[0].path):
        describe(tree, files)


def test_a_file_that_is_too_large_is_left_out(tree: FoundTree) -> None:
    file = add(tree.path, "inductor_cache/ab/cbig.main.so", b"")
    os.truncate(file, MAX_BLOB + 1)
    described, (left,) = describe(tree, scan_tree(tree.layout, tree.path).files)
    assert left.path == "inductor_cache/ab/cbig.main.so"
    assert str(MAX_BLOB) in left.reason
    assert str(MAX_BLOB + 1) in left.reason
    assert left.path not in described
    assert "inductor_cache/ab/cabcdef.py" in described


def test_a_file_that_is_too_large_to_be_relocated_is_left_out(tree: FoundTree) -> None:
    group = "inductor_cache/triton/0/LARGELARGELARGELARGE/__grp__k.json"
    add(tree.path, group, b" " * (MAX_RELOCATED + 1))
    _, (left,) = describe(tree, scan_tree(tree.layout, tree.path).files)
    assert left.path == group
    assert f"{MAX_RELOCATED + 1} bytes" in left.reason
    assert f"at most {MAX_RELOCATED} are relocated" in left.reason


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a small tree is worth a process here."""
    monkeypatch.setattr(helper, "_WORTH", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def test_two_processes_find_the_same(tree: FoundTree, request: pytest.FixtureRequest) -> None:
    files = scan_tree(tree.layout, tree.path).files
    alone = describe(tree, files)
    Path(TreeState(tree.path).memo).unlink()
    request.getfixturevalue("helped")
    assert describe(tree, files) == alone


@pytest.mark.usefixtures("helped")
def test_each_process_reads_half(tree: FoundTree, opened: list[str]) -> None:
    files = scan_tree(tree.layout, tree.path).files
    described, _ = describe(tree, files)
    here = _of_tree(opened, tree)
    assert set(described) == {file.path for file in files}
    assert 0 < len(here) < len(files)
    assert "rank_0_0/model" not in here  # the largest is the other's


@pytest.mark.usefixtures("helped")
def test_what_the_other_process_leaves_out(tree: FoundTree) -> None:
    group = next(Path(tree.path).rglob("__grp__*"))
    group.write_text('{"child_paths": {"a": "/elsewhere/a"}, "more": "%s"}' % ("x" * 1_000_000))
    described, left_out = describe(tree, scan_tree(tree.layout, tree.path).files)
    assert [one.path for one in left_out] == [str(group.relative_to(tree.path))]
    assert "/elsewhere" in left_out[0].reason
    assert "rank_0_0/model" in described


@pytest.mark.usefixtures("helped")
def test_a_file_that_went_away_from_the_other_process(tree: FoundTree) -> None:
    files = scan_tree(tree.layout, tree.path).files
    (Path(tree.path) / "rank_0_0/model").unlink()
    with pytest.raises(NotSettledError, match="rank_0_0/model"):
        describe(tree, files)


@pytest.mark.usefixtures("helped")
def test_another_process_that_is_killed_is_done_without(
    tree: FoundTree, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = scan_tree(tree.layout, tree.path).files
    here, real = os.getpid(), describing._describe

    def fatal(tree: FoundTree, file: ScannedFile) -> Any:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(tree, file)

    made: list[int] = []

    class Noted(helper.Helper):
        def __init__(self, work: helper.Work) -> None:
            super().__init__(work)
            made.append(self._process)

    monkeypatch.setattr(describing, "_describe", fatal)
    monkeypatch.setattr(describing, "Helper", Noted)
    described, left_out = describe(tree, files)
    assert (set(described), left_out) == ({file.path for file in files}, [])
    (process,) = made
    assert not Path(f"/proc/{process}").exists()  # and reaped
    assert f"helped to read {tree.path} was killed" in caplog.text


def test_half_of_the_work() -> None:
    def files(*sizes: int) -> list[ScannedFile]:
        return [
            ScannedFile(f"f{n}", "shared", size, executable=False, mtime_ns=0, inode=n)
            for n, size in enumerate(sizes)
        ]

    own, lent = describing._shared_out(files(*[100] * 10))
    assert (len(own), len(lent)) == (6, 4)
    own, lent = describing._shared_out(files(*[1 << 20] * 20, 60 << 20))
    assert [file.size for file in lent] == [60 << 20]
    assert len(own) == 20


@pytest.mark.usefixtures("helped")
def test_where_no_process_can_be_made(tree: FoundTree, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(os, "fork", fork)
    files = scan_tree(tree.layout, tree.path).files
    described, left_out = describe(tree, files)
    assert (set(described), left_out) == ({file.path for file in files}, [])
