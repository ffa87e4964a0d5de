"""What of a part lies on the disk already, and what is in its way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from blake3 import blake3

from aotcache.local.existing import compare
from aotcache.protocol.manifest import BY_DIRECTORY, PLAIN, FileEntry

FILES = {
    "inductor_cache/ab/cab.py": b"code",
    "inductor_cache/ab/cab.best_config": b"{}",
    "inductor_cache/triton/0/KEY/__grp__k.json": b"<<aotcache:dir>>/k",
    "rank_0_0/model": b"model of rank 0",
}


def _entry(path: str, data: bytes) -> FileEntry:
    relocate = BY_DIRECTORY if "__grp__" in path else ""
    return FileEntry(path, len(data), PLAIN, blake3(data).hexdigest(), relocate)


ENTRIES = [_entry(path, data) for path, data in FILES.items()]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path, data in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return tmp_path


def test_nothing_is_there(tmp_path: Path) -> None:
    found = compare(ENTRIES, str(tmp_path / "tree"))
    assert (found.missing, found.kept) == (ENTRIES, 0)


def test_all_is_there(tree: Path) -> None:
    (tree / "inductor_cache/ab/cab.best_config").write_bytes(b"rewritten by torch")
    (tree / "inductor_cache/triton/0/KEY/__grp__k.json").write_bytes(b"/at/its/own/place/k")
    found = compare(ENTRIES, str(tree))
    assert (found.missing, found.kept) == ([], 0)


def test_what_this_node_compiled_itself_is_kept(tree: Path) -> None:
    (tree / "inductor_cache/ab/cab.py").write_bytes(b"compiled here")
    (tree / "inductor_cache/triton/0/KEY/__grp__k.json").unlink()
    found = compare(ENTRIES, str(tree))
    assert (found.missing, found.kept) == ([ENTRIES[2]], 1)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"another's model", "is not the one"),
        (b"model of rank 1", "is not the one"),
    ],
    ids=["empty", "other size", "same size"],
)
def test_another_model_is_in_the_way(tree: Path, data: bytes, why: str) -> None:
    (tree / "rank_0_0/model").write_bytes(data)
    found = compare(ENTRIES, str(tree))
    assert (found.missing, found.kept) == ([], 1)
    assert re.search(f"{tree}/rank_0_0/model {why}.*delete it", found.models[0])


def test_a_link_is_no_model(tree: Path) -> None:
    (tree / "rank_0_0/model").rename(tree / "elsewhere")
    (tree / "rank_0_0/model").symlink_to(tree / "elsewhere")
    assert "is not a file" in compare(ENTRIES, str(tree)).models[0]


def test_a_file_where_a_directory_has_to_be_is_left_to_the_install(tree: Path) -> None:
    (tree / "rank_0_0/model").unlink()
    (tree / "rank_0_0").rmdir()
    (tree / "rank_0_0").write_bytes(b"a file")
    assert compare(ENTRIES, str(tree)).missing == [ENTRIES[3]]
