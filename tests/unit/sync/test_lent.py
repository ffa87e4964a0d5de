"""Pulls with two processes: the ranks' files are another's, all or nothing all the same."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aotcache.core.limits import Limits
from aotcache.errors import AotcacheError, LocalError, ManifestError, ObjectMissingError
from aotcache.local.state import TreeState
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.v1.lookup import Miss
from aotcache.storage.cloud_store import CloudStore
from aotcache.sync import helper, mover
from aotcache.sync.helper import Helper
from aotcache.sync.progress import Progress
from aotcache.sync.pull import Pulled
from aotcache.sync.site import Site
from support.killing import Steps, killed_before
from support.site import Service, publish_tree, pull_tree
from support.small import Here, add, small_tree
from support.trees import H100, contents

LIBRARY = "inductor_cache/gh/cghijk.main.so"
RANKS = 2


@pytest.fixture(autouse=True)
def helpers(monkeypatch: pytest.MonkeyPatch) -> list[Helper]:
    """Those that were made: small trees are worth it here."""
    made: list[Helper] = []

    class Noted(Helper):
        def __init__(self, *how: Any) -> None:
            super().__init__(*how)
            made.append(self)

    monkeypatch.setattr(helper, "_WORTH", 1)
    monkeypatch.setattr(mover, "Helper", Noted)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    return made


def _tree(root: Path, *, cpp: bool = True) -> FoundTree:
    return small_tree(root, cpp=cpp, ranks=range(RANKS), model_bytes=200_000)


def _place(tree: FoundTree, root: Path) -> Path:
    return Path(tree_path(str(root), tree.layout, tree.hash))


def _pull(site: Site, tree: FoundTree, root: Path, *parts: str) -> Pulled:
    found = pull_tree(site, tree, H100, root, *parts)
    assert isinstance(found, Pulled)
    return found


def _nothing_is_left(place: Path) -> bool:
    return not place.exists() and not Path(TreeState(str(place)).staging).exists()


def test_what_is_pulled_is_the_same(
    here: Here, helpers: list[Helper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = _tree(tmp_path / "node")
    publish_tree(here.site(), tree)
    helped = _pull(here.site(), tree, tmp_path / "one")
    assert len(helpers) == 1
    monkeypatch.setattr(helper, "_WORTH", 1 << 40)
    alone = _pull(here.site(), tree, tmp_path / "other")
    assert len(helpers) == 1
    there = contents(_place(tree, tmp_path / "one"))
    assert set(there) == set(contents(tree.path))
    assert {path: data for path, data in there.items() if "__grp__" not in path} == {
        path: data
        for path, data in contents(_place(tree, tmp_path / "other")).items()
        if "__grp__" not in path
    }
    # A frame with files of both kinds is read by both; the rest is read once.
    assert alone.moved_bytes <= helped.moved_bytes <= 2 * alone.moved_bytes
    assert helped.written_bytes == alone.written_bytes
    assert [(p.part, p.installed) for p in helped.parts] == [
        (p.part, p.installed) for p in alone.parts
    ]


@pytest.mark.parametrize("cpp", [False, True])
def test_models_come_after_libraries_and_before_the_rest(
    here: Here, tmp_path: Path, cpp: bool
) -> None:
    site = here.site()
    tree = _tree(tmp_path / "node", cpp=cpp)
    publish_tree(site, tree)
    add(tree.path, "inductor_cache/zz/cgrown.py", b"# grown" * 1000)  # in a pack of its own
    publish_tree(site, tree)
    place = _place(tree, tmp_path / "fresh")
    seen: list[set[str]] = []

    def step(text: str) -> None:
        if text.startswith("installing"):
            seen.append(set(contents(place)) if place.exists() else set())

    _pull(here.site(progress=Progress(step=step)), tree, tmp_path / "fresh")
    models = {f"rank_{rank}_0/model" for rank in range(RANKS)}
    first = {LIBRARY} if cpp else set()
    assert seen[0] == set()
    assert seen[-1] == first | models
    assert first | models in seen
    assert not any(path.endswith("model") for path in seen[-2])
    assert set(contents(place)) == set(contents(tree.path))


@pytest.mark.parametrize("kind", ["shared", "rank_0_0-d0"])
def test_one_part_needs_no_help(
    here: Here, helpers: list[Helper], tmp_path: Path, kind: str
) -> None:
    tree = _tree(tmp_path / "node")
    publish_tree(here.site(), tree)
    _pull(here.site(), tree, tmp_path / "fresh", kind)
    assert helpers == []


def test_one_processor_has_no_use_for_it(
    here: Here, helpers: list[Helper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    tree = _tree(tmp_path / "node")
    publish_tree(here.site(), tree)
    _pull(here.site(), tree, tmp_path / "fresh")
    assert helpers == []


def test_where_no_process_can_be_made_one_does_it_all(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:
        raise BlockingIOError("no more processes")

    tree = _tree(tmp_path / "node")
    publish_tree(here.site(), tree)
    monkeypatch.setattr(os, "fork", fork)
    _pull(here.site(), tree, tmp_path / "fresh")
    assert set(contents(_place(tree, tmp_path / "fresh"))) == set(contents(tree.path))


def test_a_process_that_has_used_a_cloud_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rust's threads are in no fork; what is asked there would never be answered."""
    monkeypatch.setattr(CloudStore, "_threads_of", None)
    store = CloudStore.__new__(CloudStore)
    assert store.forkable
    monkeypatch.setattr(CloudStore, "_threads_of", os.getpid())
    assert not store.forkable


def test_there_already_nothing_is_staged(here: Here, helpers: list[Helper], tmp_path: Path) -> None:
    tree = _tree(tmp_path / "node")
    publish_tree(here.site(), tree)
    _pull(here.site(), tree, tmp_path / "fresh")
    again = _pull(here.site(), tree, tmp_path / "fresh")
    assert (again.installed, again.moved_bytes, again.requests) == (0, 0, 0)
    assert len(helpers) == 2


@pytest.mark.parametrize("lost", ["rank_0_0/model", "inductor_cache/ab/cabcdef.py"])
def test_a_part_of_it_is_missing_here(here: Here, tmp_path: Path, lost: str) -> None:
    """Of one of the two kinds only."""
    tree = _tree(tmp_path / "node")
    publish_tree(here.site(), tree)
    _pull(here.site(), tree, tmp_path / "fresh")
    place = _place(tree, tmp_path / "fresh")
    before = contents(place)
    there = lost if (place / lost).exists() else next(p for p in before if p.endswith(".py"))
    (place / there).unlink()
    assert _pull(here.site(), tree, tmp_path / "fresh").installed == 1
    assert contents(place) == before


def _without_packs(here: Here) -> None:
    for found in here.store.list("default/packs/"):
        Path(here.storage_url.removeprefix("file://"), found.key).unlink()


def test_what_it_cannot_read_is_raised_here(here: Here, tmp_path: Path) -> None:
    tree = _tree(tmp_path / "node")
    publish_tree(here.site(), tree)
    _without_packs(here)
    with pytest.raises(ObjectMissingError):
        _pull(here.site(), tree, tmp_path / "fresh")
    assert _nothing_is_left(_place(tree, tmp_path / "fresh"))


def test_the_shared_part_is_refused_after_it_has_begun(
    here: Here, helpers: list[Helper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aotcache.sync import pull

    tree = _tree(tmp_path / "node")
    publish_tree(here.site(), tree)
    checked = pull.refuse_foreign

    def refuse(manifests: Any) -> None:
        checked(manifests)
        if manifests[0].statement.part == "shared":
            raise ManifestError("a path that has no place in it")

    monkeypatch.setattr(pull, "refuse_foreign", refuse)
    with pytest.raises(ManifestError, match="no place"):
        _pull(here.site(), tree, tmp_path / "fresh")
    assert len(helpers) == 1
    assert _nothing_is_left(_place(tree, tmp_path / "fresh"))


def test_a_base_that_is_gone_after_it_has_begun_is_a_miss(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tree is deleted just now: what the shared part's list is written against is not there."""
    tree = _tree(tmp_path / "node")
    publish_tree(here.site(), tree)
    accepted = Site._accept

    def accept(site: Site, key: str, data: bytes) -> Any:
        if "/shared/" in key:
            here.site().index.delete(tree.hash)
            raise ObjectMissingError(key)
        return accepted(site, key, data)

    monkeypatch.setattr(Site, "_accept", accept)
    found = pull_tree(here.site(), tree, H100, tmp_path / "fresh")
    assert isinstance(found, Miss)
    assert _nothing_is_left(_place(tree, tmp_path / "fresh"))


def test_limits_count_what_both_bring(here: Here, tmp_path: Path) -> None:
    tree = _tree(tmp_path / "node")
    publish_tree(here.site(), tree)
    with pytest.raises(AotcacheError, match="files"):
        _pull(replace(here.site(), limits=Limits(files=3)), tree, tmp_path / "fresh")
    assert _nothing_is_left(_place(tree, tmp_path / "fresh"))


def test_a_disk_that_is_too_small_for_both(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = _tree(tmp_path / "node")
    publish_tree(here.site(), tree)
    models = sum(len(d) for p, d in contents(tree.path).items() if p.endswith("model"))
    usage = mover.shutil.disk_usage(tmp_path)._replace(free=models + 10)
    monkeypatch.setattr(mover.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LocalError, match="nothing was written; free some space"):
        _pull(here.site(), tree, tmp_path / "fresh")
    assert _nothing_is_left(_place(tree, tmp_path / "fresh"))


def _dying(last: int, below: str) -> Callable[[], None]:
    """In the helper: it dies before step `last` of its own."""
    import sys

    def first() -> None:
        sys.addaudithook(Steps([below], last).hook)

    return first


def test_a_helper_that_is_killed_at_every_step(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = _tree(tmp_path / "node")
    publish_tree(here.site(), tree)
    killed = 0
    for last in itertools.count(1):
        root = tmp_path / f"root{last}"

        class Dying(Helper):
            def __init__(self, work: Any, _first: Any, last: int = last, root: Path = root) -> None:
                super().__init__(work, _dying(last, str(root)))

        monkeypatch.setattr(mover, "Helper", Dying)
        place = _place(tree, root)
        try:
            _pull(here.site(), tree, root)
            break
        except LocalError as error:
            said = str(error)
        killed += 1
        assert "was killed" in said
        assert not any(path.endswith("model") for path in _there(place)), f"step {last}"
        monkeypatch.setattr(mover, "Helper", Helper)
        _pull(here.site(), tree, root)
        assert set(contents(place)) == set(contents(tree.path)), f"step {last}"
    assert killed > 4


def _there(place: Path) -> dict[str, bytes]:
    return contents(place) if place.exists() else {}


def test_a_pull_that_is_killed_at_every_step(service: Service, tmp_path: Path) -> None:
    tree = _tree(tmp_path / "node")
    publish_tree(service.site(), tree)
    expected = set(contents(tree.path))
    for last in itertools.count(1):
        root = tmp_path / f"root{last}"
        place = _place(tree, root)

        def operation(root: Path = root) -> None:
            _pull(service.site(), tree, root)

        killed = killed_before(last, [str(root)], operation)
        there = set(_there(place))
        assert there <= expected
        if any(path.endswith("model") for path in there):
            assert LIBRARY in there
            if there != expected:
                assert Path(TreeState(str(place)).staging).exists(), f"step {last}: no sign"
        _pull(service.site(), tree, root)
        assert set(contents(place)) == expected, f"step {last}"
        assert not Path(TreeState(str(place)).staging).exists()
        if not killed:
            break
    assert last > 10


def test_ctrl_c_ends_both(here: Here, helpers: list[Helper], tmp_path: Path) -> None:
    tree = _tree(tmp_path / "node")
    publish_tree(here.site(), tree)

    def step(text: str) -> None:
        if text.startswith("fetching"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _pull(here.site(progress=Progress(step=step)), tree, tmp_path / "fresh")
    assert len(helpers) == 1
    assert helpers[0]._process == 0  # stopped, and reaped
    assert _nothing_is_left(_place(tree, tmp_path / "fresh"))
