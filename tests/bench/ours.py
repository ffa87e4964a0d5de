"""The commands of aotcache that take part."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from aotcache.local.state import TreeState
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import DEFAULT_NAMESPACE
from bench.servers import Line

AOTCACHE = (str(Path(sys.executable).with_name("aotcache")),)  # as it is installed, and users run


def push(
    line: Line, way: str, tree: FoundTree, root: Path, namespace: str = DEFAULT_NAMESPACE
) -> list[str]:
    """root: the cache root that the tree lies in."""
    words = ["push", tree.hash, "--cache-root", str(root), "--namespace", namespace, "--json"]
    return [*AOTCACHE, *words, *line.options[way]]


def pull(
    line: Line,
    way: str,
    tree: FoundTree,
    platform: Path,
    root: Path,
    *parts: str,
    namespace: str = DEFAULT_NAMESPACE,
) -> list[str]:
    """root: the cache root that it is put in."""
    words = ["pull", tree.hash, "--cache-root", str(root), "--namespace", namespace, "--json"]
    words += [word for part in parts for word in ("--part", part)]
    return [*AOTCACHE, *words, "--platform", str(platform), *line.options[way]]


def place(tree: FoundTree, root: Path) -> Path:
    """Where a pull puts the tree."""
    return Path(tree_path(str(root), tree.layout, tree.hash))


def forget(tree: FoundTree) -> None:
    """Nothing is remembered of the tree but its records: its next publish is a first one."""
    state = TreeState(tree.path)
    for path in (state.journal, state.memo):
        Path(path).unlink(missing_ok=True)
    shutil.rmtree(state.seen, ignore_errors=True)
    home = Path(state.records).parents[1]
    shutil.rmtree(home / "manifests" / tree.hash, ignore_errors=True)


def uploaded(output: str) -> int:
    """Bytes that a push says it has uploaded."""
    return sum(one["uploaded_bytes"] for one in json.loads(output)["published"])
