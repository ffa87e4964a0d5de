"""Real Triton kernels for sm_90, published from one directory and pulled into another: Triton
compiles nothing there. Moved without relocation, it compiles all of them again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from aotcache.local.records import write_record
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import INDUCTOR
from aotcache.protocol.record import EngineRecord
from aotcache.sync.pull import Pulled
from support.site import Service, publish_tree, pull_tree
from support.trees import H100, compile_kernels, contents

KERNELS = 6


@pytest.fixture
def tree(tmp_path: Path) -> FoundTree:
    path = tree_path(str(tmp_path / "node"), INDUCTOR, "kernels")
    compile_kernels(Path(path, "triton", "0"), KERNELS)
    record = EngineRecord(layout=INDUCTOR, hash="kernels", part="shared", platform=H100)
    write_record(path, record)
    return FoundTree(INDUCTOR, "kernels", path)


def test_triton_compiles_nothing_at_the_new_place(
    service: Service, tree: FoundTree, tmp_path: Path
) -> None:
    site = service.site()
    published = publish_tree(site, tree)
    assert published.left_out == ()
    pulled = pull_tree(site, tree, H100, tmp_path / "fresh")
    assert isinstance(pulled, Pulled)
    Path(tree.path).rename(tmp_path / "gone")
    assert _written_again(Path(pulled.path, "triton", "0")) == set()


def test_without_relocation_triton_compiles_all_of_them(tree: FoundTree, tmp_path: Path) -> None:
    moved = tmp_path / "moved" / "0"
    shutil.copytree(Path(tree.path, "triton", "0"), moved)
    Path(tree.path).rename(tmp_path / "gone")
    cubins = {path for path in _written_again(moved) if path.endswith(".cubin")}
    assert len(cubins) == KERNELS


def test_triton_that_compiles_again_for_one_device_leaves_the_others(
    service: Service, tree: FoundTree, tmp_path: Path
) -> None:
    """Equal kernels of two devices are one file with two names: nobody writes to it in place."""
    site = service.site()
    copy = Path(tree.path, "triton", "1")
    shutil.copytree(Path(tree.path, "triton", "0"), copy)
    for group in copy.rglob("__grp__*.json"):
        group.write_text(group.read_text().replace("/triton/0/", "/triton/1/"))
    publish_tree(site, tree)
    pulled = pull_tree(site, tree, H100, tmp_path / "fresh")
    assert isinstance(pulled, Pulled)
    one, two = Path(pulled.path, "triton", "0"), Path(pulled.path, "triton", "1")
    assert set(_inodes(one)) & set(_inodes(two))
    before = contents(one)
    for group in two.rglob("__grp__*.json"):
        group.unlink()
    cubins = {path for path in _written_again(two) if path.endswith(".cubin")}
    assert len(cubins) == KERNELS
    assert contents(one) == before
    assert not set(_inodes(one)) & set(_inodes(two))


def _inodes(triton: Path) -> list[int]:
    return [path.stat().st_ino for path in triton.rglob("*.cubin")]


def _written_again(triton: Path) -> set[str]:
    """What Triton writes when it is asked for the kernels with this directory as its cache."""
    for path in triton.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    compile_kernels(triton, KERNELS)
    return {
        str(path)
        for path in triton.rglob("*")
        if path.is_file() and path.stat().st_mtime > 1_700_000_000
    }
