"""Which files a generation has."""

from __future__ import annotations

from pathlib import Path

from aotcache.probe.trees import FoundTree
from aotcache.protocol.manifest import decode_manifest
from aotcache.protocol.names import manifest_key
from aotcache.sync.published import ALREADY_STORED
from support.site import publish_tree
from support.small import Here, add, small_tree

GRAPH = "inductor_cache/fxgraph"


def _stored(here: Here, tree: FoundTree) -> tuple[set[str], dict[str, str]]:
    """The paths of the shared part's newest generation after a publish, and what was left out."""
    result = publish_tree(here.site(), tree)
    generation = next(p.generation for p in result.parts if p.part == "shared")
    data = here.store.get(manifest_key(result.tree, "shared", generation))
    paths = {entry.path for entry in decode_manifest(data).statement.files}
    return paths, {left.path: left.reason for left in result.left_out}


def test_paths_that_differ_only_by_case(here: Here, tmp_path: Path) -> None:
    one = small_tree(tmp_path / "one")
    add(one.path, f"{GRAPH}/ab/same", b"second by its path")
    add(one.path, f"{GRAPH}/ab/Same", b"first by its path")
    paths, left = _stored(here, one)
    assert f"{GRAPH}/ab/Same" in paths
    assert list(left) == [f"{GRAPH}/ab/same"]
    assert f"{GRAPH}/ab/Same" in left[f"{GRAPH}/ab/same"]

    # What is stored stays, even where it is not the first by its path.
    two = small_tree(tmp_path / "two")
    add(two.path, f"{GRAPH}/ab/SAME", b"another")
    add(two.path, f"{GRAPH}/ab/new", b"new")
    grown, left = _stored(here, two)
    assert grown == paths | {f"{GRAPH}/ab/new"}
    assert list(left) == [f"{GRAPH}/ab/SAME"]

    # Nothing else is new: not a generation.
    (Path(two.path) / GRAPH / "ab/new").unlink()
    result = publish_tree(here.site(), two)
    assert {part.status for part in result.parts} == {ALREADY_STORED}


def test_a_file_where_another_has_a_directory(here: Here, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "node")
    add(tree.path, f"{GRAPH}/cd/FGRAPH", b"a file, where there is fgraph/")
    add(tree.path, f"{GRAPH}/xy", b"a file")
    add(tree.path, f"{GRAPH}/XY/deep/graph", b"of a directory, and first by its path")
    paths, left = _stored(here, tree)
    assert {f"{GRAPH}/cd/FGRAPH", f"{GRAPH}/XY/deep/graph"} <= paths
    assert set(left) == {f"{GRAPH}/cd/fgraph/agraph", f"{GRAPH}/xy"}
