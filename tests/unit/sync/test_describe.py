"""Digests of a tree's files, which are read again only where they have changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aotcache.core.framing import digest_of
from aotcache.core.limits import MAX_BLOB
from aotcache.core.relocation import MAX_RELOCATED
from aotcache.errors import NotSettledError
from aotcache.probe.trees import FoundTree, scan_tree
from aotcache.protocol.manifest import BY_DIRECTORY
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
