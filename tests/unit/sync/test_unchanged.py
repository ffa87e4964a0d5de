"""A tree in which nothing is new is not read again, and anything new is noticed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aotcache.local.records import read_records, write_record
from aotcache.local.state import TreeState
from aotcache.probe.trees import FoundTree, scan_tree
from aotcache.sync.published import ALREADY_STORED, Published
from aotcache.sync.site import Site
from aotcache.sync.unchanged import see, still_stored
from support.site import publish_tree
from support.small import CountedIndex, Here, add, small_tree

NAMESPACE = "default"
WHERE = ("http://service", NAMESPACE, "unsigned")


@pytest.fixture
def tree(tmp_path: Path) -> FoundTree:
    return small_tree(tmp_path / "node")


@pytest.fixture
def seen(here: Here, tree: FoundTree) -> Site:
    """The site that all of the tree was published to, and seen there."""
    site = here.site()
    result = publish_tree(site, tree)
    see(WHERE, scan_tree(tree.layout, tree.path), result)
    return site


def ask(site: Site, tree: FoundTree, where: tuple[str, ...] = WHERE) -> Published | None:
    return still_stored(site.index, where, NAMESPACE, tree)


def test_nothing_new_is_told_without_a_look_at_a_file(
    seen: Site, tree: FoundTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    stat = os.stat

    def told(path: str, **more: object) -> os.stat_result:
        looked.append(str(path))
        return stat(path, **more)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "stat", told)
    result = ask(seen, tree)
    assert result is not None
    assert {part.part: part.status for part in result.parts} == {
        "rank_0_0-d0": ALREADY_STORED,
        "shared": ALREADY_STORED,
    }
    assert sum(part.files for part in result.parts) == len(scan_tree(tree.layout, tree.path).files)
    assert result.uploaded_bytes == 0
    inside = [path for path in looked if path.startswith(f"{tree.path}/")]
    assert inside
    assert all(Path(path).is_dir() for path in inside)


def _new_file(tree: FoundTree) -> None:
    add(tree.path, "inductor_cache/fxgraph/ab/new", b"new")


def _new_directory(tree: FoundTree) -> None:
    add(tree.path, "rank_1_0/model", b"another rank")


def _a_directory_is_gone(tree: FoundTree) -> None:
    shutil.rmtree(Path(tree.path) / "rank_0_0")


def _another_record(tree: FoundTree) -> None:
    (record, *_) = read_records(tree.path)
    write_record(tree.path, replace(record, compile_seconds=1.0))


def _damaged(tree: FoundTree) -> None:
    (seen,) = Path(TreeState(tree.path).seen).iterdir()
    seen.write_bytes(b"{}")


@pytest.mark.parametrize(
    "change", [_new_file, _new_directory, _a_directory_is_gone, _another_record, _damaged]
)
def test_whatever_changes_is_looked_at(
    seen: Site, tree: FoundTree, change: Callable[[FoundTree], None]
) -> None:
    change(tree)
    assert ask(seen, tree) is None


def test_a_tree_that_was_deleted_at_the_service_is_published_again(
    seen: Site, tree: FoundTree
) -> None:
    seen.index.delete(tree.hash)
    assert ask(seen, tree) is None
    assert {part.generation for part in publish_tree(seen, tree).parts} == {2}


def test_another_publishers_generation_is_looked_at(
    seen: Site, tree: FoundTree, tmp_path: Path
) -> None:
    grown = small_tree(tmp_path / "other")
    add(grown.path, "inductor_cache/fxgraph/ab/new", b"new")
    publish_tree(seen, grown)
    assert ask(seen, tree) is None


def test_parts_of_other_nodes_say_nothing_of_ours(
    seen: Site, tree: FoundTree, tmp_path: Path
) -> None:
    other = small_tree(tmp_path / "other", ranks=(1,))
    shutil.rmtree(Path(other.path) / "inductor_cache")
    publish_tree(seen, other)
    assert ask(seen, tree) is not None


def test_it_opens_no_session(seen: Site, tree: FoundTree) -> None:
    """What a session pins is not collected while it lasts."""
    assert isinstance(seen.index, CountedIndex)
    before = seen.index.sessions
    assert ask(seen, tree) is not None
    assert seen.index.sessions == before


@pytest.mark.parametrize("place", range(len(WHERE)))
def test_it_holds_where_it_was_published_and_nowhere_else(
    seen: Site, tree: FoundTree, place: int
) -> None:
    other = (*WHERE[:place], "other", *WHERE[place + 1 :])
    assert ask(seen, tree, other) is None
    assert ask(seen, tree) is not None
