"""Mover: what a direct load needs comes first, whole units only, and a pull cut off is seen."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aotcache.errors import ObjectMissingError, UnavailableError
from aotcache.local.pulled import read_note
from aotcache.local.state import TreeState
from aotcache.net.http import HttpClient
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.manifest import FileEntry
from aotcache.remote.index import Index
from aotcache.sync.mover import _is_urgent
from aotcache.sync.progress import Progress
from aotcache.sync.pull import Pulled
from aotcache.sync.site import Site
from support.killing import killed_before
from support.site import Service, publish_tree, pull_tree
from support.small import KERNEL, Here, add, small_tree
from support.trees import H100, contents

GROWN = "inductor_cache/triton/0/GROWNGROWNGROWNGROWN"
PART = "rank_0_0-d0"


def _published(site: Site, root: Path) -> FoundTree:
    """A tree in two packs: only the first holds what is urgent."""
    tree = small_tree(root, cpp=True)
    publish_tree(site, tree)
    add(tree.path, f"{GROWN}/k.cubin", b"cubin" * 1000)
    add(tree.path, f"{GROWN}/launcher.so", b"launcher" * 100, 0o755)
    add(tree.path, f"{GROWN}/same.so", b"# code\n" * 50, 0o755)  # as a file of the first pack
    add(tree.path, f"{GROWN}/nothing.json", b"")
    children = {"child_paths": {"k.cubin": f"{tree.path}/{GROWN}/k.cubin"}}
    add(tree.path, f"{GROWN}/__grp__k.json", json.dumps(children).encode())
    publish_tree(site, tree)
    return tree


def _place(tree: FoundTree, root: Path) -> Path:
    return Path(tree_path(str(root), tree.layout, tree.hash))


def _pull(site: Site, tree: FoundTree, root: Path) -> Pulled:
    found = pull_tree(site, tree, H100, root)
    assert isinstance(found, Pulled)
    return found


def _there(place: Path) -> dict[str, bytes]:
    return contents(place) if place.exists() else {}


@pytest.mark.parametrize(
    ("path", "urgent"),
    [
        ("rank_0_0/model", True),
        ("inductor_cache/ab/cabc.main.so", True),
        ("inductor_cache/ab/cabc.py", False),
        ("inductor_cache/triton/0/KEY/launcher.so", False),
        ("rank_0_0/backbone/triton_cache/KEY/launcher.so", False),
        ("rank_0_0/backbone/triton_cache/0/KEY/launcher.so", False),
        ("triton/0/KEY/launcher.so", False),
        ("inductor_cache/ab/model.py", False),
    ],
)
def test_what_is_urgent(path: str, urgent: bool) -> None:
    assert _is_urgent(FileEntry(path, 1, 0o644, "0" * 64)) is urgent


def test_the_model_and_the_libraries_come_first(here: Here, tmp_path: Path) -> None:
    tree = _published(here.site(), tmp_path / "node")
    place = _place(tree, tmp_path / "fresh")
    seen: list[set[str]] = []

    def step(text: str) -> None:
        if text.startswith("installing"):
            seen.append(set(_there(place)))

    site = here.site(progress=Progress(step=step))
    pulled = _pull(site, tree, tmp_path / "fresh")
    assert seen == [set(), {"rank_0_0/model", "inductor_cache/gh/cghijk.main.so"}]
    assert set(contents(place)) == set(contents(tree.path))
    assert pulled.requests == 2  # the pack of both kinds is read once
    assert not Path(TreeState(str(place)).staging).exists()


def test_a_tree_in_one_piece_is_installed_at_once(here: Here, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "node", cpp=True)
    publish_tree(here.site(), tree)
    steps: list[str] = []
    _pull(here.site(progress=Progress(step=steps.append)), tree, tmp_path / "fresh")
    assert len([text for text in steps if text.startswith("installing")]) == 1


def test_killed_at_every_step(service: Service, tmp_path: Path) -> None:
    tree = _published(service.site(), tmp_path / "node")
    expected = set(contents(tree.path))
    between = 0
    for last in itertools.count(1):
        root = tmp_path / f"root{last}"
        place = _place(tree, root)

        def operation(root: Path = root) -> None:
            _pull(service.site(), tree, root)

        killed = killed_before(last, [str(root)], operation)
        there = set(_there(place))
        for key in (GROWN, f"inductor_cache/triton/0/{KERNEL}"):
            of_key = {path for path in expected if path.startswith(key)}
            assert there & of_key in (set(), of_key), f"step {last}: {key} is half filled"
        if "rank_0_0/model" in there:
            assert "inductor_cache/gh/cghijk.main.so" in there
            assert read_note(str(place), PART) is not None, f"step {last}: nobody marks its load"
            if there != expected:
                between += 1
                assert Path(TreeState(str(place)).staging).exists(), f"step {last}: no sign"
        _pull(service.site(), tree, root)
        assert set(contents(place)) == expected, f"step {last}"
        assert not Path(TreeState(str(place)).staging).exists()
        assert read_note(str(place), PART) is not None
        if not killed:
            break
    assert between > 3


def _packs(here: Here) -> set[Path]:
    root = Path(here.storage_url.removeprefix("file://"))
    return {root / found.key for found in here.store.list("default/packs/")}


def _take_away(packs: set[Path]) -> Callable[[], None]:
    """Storage loses packs for a while; the result brings them back."""
    moved = {pack: pack.rename(pack.with_suffix(".away")) for pack in packs}

    def back() -> None:
        for pack, away in moved.items():
            away.rename(pack)

    return back


def test_the_rest_that_cannot_be_read_comes_with_the_next_pull(here: Here, tmp_path: Path) -> None:
    site = here.site()
    tree = small_tree(tmp_path / "node", cpp=True)
    publish_tree(site, tree)
    first = _packs(here)
    add(tree.path, "inductor_cache/zz/cgrown.py", b"# grown")
    publish_tree(site, tree)
    place = _place(tree, tmp_path / "fresh")
    staging = Path(TreeState(str(place)).staging)

    back = _take_away(_packs(here) - first)
    with pytest.raises(ObjectMissingError):
        _pull(site, tree, tmp_path / "fresh")
    assert set(_there(place)) == {"rank_0_0/model", "inductor_cache/gh/cghijk.main.so"}
    assert list(staging.iterdir()) == []  # the sign, and no bytes
    assert read_note(str(place), PART) is not None

    # A service that does not answer does not take the sign away.
    away = replace(site, index=Index(HttpClient("http://127.0.0.1:1", retries=0)))
    with pytest.raises(UnavailableError):
        _pull(away, tree, tmp_path / "fresh")
    assert staging.exists()
    back()
    _pull(site, tree, tmp_path / "fresh")
    assert set(contents(place)) == set(contents(tree.path))
    assert not staging.exists()


def test_what_is_urgent_and_cannot_be_read_leaves_nothing(here: Here, tmp_path: Path) -> None:
    tree = _published(here.site(), tmp_path / "node")
    _take_away(_packs(here))
    with pytest.raises(ObjectMissingError):
        _pull(here.site(), tree, tmp_path / "fresh")
    place = _place(tree, tmp_path / "fresh")
    assert not place.exists()
    assert not Path(TreeState(str(place)).staging).exists()
