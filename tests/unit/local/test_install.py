"""Install: units that appear whole, in order, and never in place of anything."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aotcache.errors import LocalError
from aotcache.local.install import install
from support.trees import contents

KEY = "inductor_cache/triton/0/KERNELKERNELKERNEL"
FILES = {
    "inductor_cache/ab/cab.py": b"code",
    "inductor_cache/aotautograd/ab/g": b"aot",
    "inductor_cache/fxgraph/ab/g": b"graph",
    f"{KEY}/__grp__k.json": b"group",
    f"{KEY}/k.cubin": b"cubin",
    f"{KEY}/k.json": b"meta",
    "rank_0_0/model": b"model",
}


@pytest.fixture
def stage(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    def make(files: dict[str, bytes]) -> Path:
        staged = tmp_path / "staged"
        _write(staged, files)
        return staged

    return make


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "tree"


def _write(place: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(data)


Stage = Callable[[dict[str, bytes]], Path]
_moves: list[list[tuple[str, str]]] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if _moves and event in ("os.rename", "os.link"):
        _, name, _, directory = arguments
        _moves[-1].append((event, f"{os.readlink(f'/proc/self/fd/{directory}')}/{name}"))


sys.addaudithook(_hear)


@pytest.fixture
def moves() -> Iterator[list[tuple[str, str]]]:
    """Each rename and link of the test, and where to."""
    heard: list[tuple[str, str]] = []
    _moves.append(heard)
    yield heard
    _moves.pop()


def test_a_fresh_tree(stage: Stage, tree: Path, moves: list[tuple[str, str]]) -> None:
    install(str(stage(FILES)), str(tree))
    assert contents(tree) == FILES
    # Whole directories, and the rank, which the engine looks for, last.
    assert moves == [("os.rename", f"{tree}/inductor_cache"), ("os.rename", f"{tree}/rank_0_0")]


def test_what_leads_to_others_comes_after_them(
    stage: Stage, tree: Path, moves: list[tuple[str, str]]
) -> None:
    # Every directory is there, so that each file is moved by itself.
    for path in FILES:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).with_name("other").write_bytes(b"")
    install(str(stage(FILES)), str(tree))
    order = [os.path.relpath(place, tree) for event, place in moves if event == "os.link"]
    assert set(order) == set(FILES)
    at = {path: number for number, path in enumerate(order)}
    assert order[-1] == "rank_0_0/model"
    assert at[f"{KEY}/__grp__k.json"] > max(at[f"{KEY}/k.cubin"], at[f"{KEY}/k.json"])
    for graph in ("inductor_cache/aotautograd/ab/g", "inductor_cache/fxgraph/ab/g"):
        assert at[graph] > max(at["inductor_cache/ab/cab.py"], at[f"{KEY}/__grp__k.json"])


def test_a_kernel_appears_at_once(stage: Stage, tree: Path, moves: list[tuple[str, str]]) -> None:
    _write(tree, {"inductor_cache/triton/0/OTHER/k.cubin": b"other"})
    install(str(stage(FILES)), str(tree))
    assert ("os.rename", f"{tree}/{KEY}") in moves
    assert not [place for _, place in moves if place.startswith(f"{tree}/{KEY}/")]


def test_existing_files_stay(stage: Stage, tree: Path) -> None:
    own = {"rank_0_0/model": b"own", f"{KEY}/k.cubin": b"own", "inductor_cache/zz/own.py": b"own"}
    _write(tree, own)
    inodes = {path: (tree / path).stat().st_ino for path in own}
    install(str(stage(FILES)), str(tree))
    assert contents(tree) == FILES | own
    assert {path: (tree / path).stat().st_ino for path in own} == inodes


def test_an_interrupted_install_is_completed(stage: Stage, tree: Path) -> None:
    half = {path: data for path, data in FILES.items() if "k." not in path}
    install(str(stage(half)), str(tree))
    rest = {path: data for path, data in FILES.items() if path not in half}
    install(str(stage(rest)), str(tree))
    assert contents(tree) == FILES


@pytest.mark.parametrize("where", ["inductor_cache", KEY, "rank_0_0"])
@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_a_link_or_file_in_the_way(stage: Stage, tree: Path, where: str, kind: str) -> None:
    outside = tree.parent / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    planted = tree / where
    planted.parent.mkdir(parents=True)
    if kind == "file":
        planted.write_bytes(b"a file")
    else:
        planted.symlink_to(outside if kind == "link" else outside / "nothing")
    with pytest.raises(LocalError, match=f"{where} is a link or a file"):
        install(str(stage(FILES)), str(tree))
    assert contents(outside) == {"file": b"precious"}
    assert not (tree / "rank_0_0" / "model").exists()


def test_a_tree_that_is_a_link(stage: Stage, tree: Path) -> None:
    (tree.parent / "outside").mkdir()
    tree.symlink_to(tree.parent / "outside")
    with pytest.raises(LocalError, match="is a link"):
        install(str(stage(FILES)), str(tree))
    assert os.listdir(tree.parent / "outside") == []


def test_a_link_in_place_of_a_file_stays_and_is_not_written_through(
    stage: Stage, tree: Path
) -> None:
    outside = tree.parent / "outside"
    outside.write_bytes(b"precious")
    (tree / "rank_0_0").mkdir(parents=True)
    (tree / "rank_0_0" / "model").symlink_to(outside)
    install(str(stage(FILES)), str(tree))
    assert (tree / "rank_0_0" / "model").is_symlink()
    assert outside.read_bytes() == b"precious"


def test_a_file_system_without_hard_links(
    stage: Stage, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    _write(tree, {"rank_0_0/other": b"", "inductor_cache/ab/cab.py": b"own"})
    monkeypatch.setattr(os, "link", no_links)
    install(str(stage(FILES)), str(tree))
    assert contents(tree) == FILES | {"rank_0_0/other": b"", "inductor_cache/ab/cab.py": b"own"}


def test_another_error_is_named(stage: Stage, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    _write(tree, {"rank_0_0/other": b""})
    monkeypatch.setattr(os, "link", fails)
    with pytest.raises(LocalError, match="Input/output error"):
        install(str(stage({"rank_0_0/model": b"model"})), str(tree))
