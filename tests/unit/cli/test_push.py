"""`push` of a tree that has not changed: what it says, what it asks, what it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aotcache.probe.trees import FoundTree
from support.raw import raw_server, serve_ok
from support.site import aotcache, printed
from support.small import Here, add, service_here, small_tree

# Each takes a tenth of what all of it may take, or more.
HEAVY = [
    *("urllib3", "http", "email", "ssl", "urllib.request", "tempfile"),
    *("concurrent.futures", "cryptography", "backports.zstd", "blake3", "rich", "obstore", "torch"),
    *("aotcache.storage", "aotcache.core", "aotcache.protocol.v1", "aotcache.protocol.platform"),
    *("aotcache.sync.publish", "aotcache.sync.site"),
]
PROGRAM = f"""
import sys
from aotcache.cli import main
try:
    main()
except SystemExit:
    pass
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


@dataclass
class Node:
    tree: FoundTree
    root: Path
    env: dict[str, str]

    def words(self, *more: str) -> tuple[str, ...]:
        return ("push", self.tree.hash, "--cache-root", str(self.root), "--json", *more)

    def push(self, *more: str) -> dict[str, int]:
        """The generation of each part, and how many files were new."""
        (done,) = printed(aotcache(*self.words(*more), env=self.env))["published"]
        return {part["part"]: part["new_files"] for part in done["parts"]}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    with service_here(tmp_path / "service") as found:
        yield found


@pytest.fixture
def node(here: Here, tmp_path: Path) -> Node:
    env = {"AOTCACHE_URL": here.url, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    aotcache("key", "generate", env=env)
    node = Node(small_tree(tmp_path / "node"), tmp_path / "node", env)
    assert sum(node.push().values()) > 2
    return node


def unchanged(node: Node, *more: str) -> list[str]:
    """The heavy imports of a push that has nothing to do."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *node.words(*more)],
        env={**os.environ, **node.env},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    (published,) = json.loads(done.stdout)["published"]
    assert {part["status"] for part in published["parts"]} == {"already stored"}
    assert published["uploaded_bytes"] == 0
    found = json.loads(done.stderr.splitlines()[-1].replace("'", '"'))
    assert isinstance(found, list)
    return found


def test_it_imports_nothing_heavy(node: Node) -> None:
    assert unchanged(node) == []


@pytest.mark.parametrize("way", ["proxy", "presigned", "auto"])
def test_it_holds_whatever_way_the_bytes_went(node: Node, here: Here, way: str) -> None:
    assert unchanged(node, "--transfer", way) == []
    assert unchanged(node, "--storage-url", here.storage_url, "--transfer", "direct") == []


def test_a_tree_that_has_grown_is_published(node: Node) -> None:
    add(node.tree.path, "inductor_cache/fxgraph/ab/new", b"new")
    assert node.push() == {"rank_0_0-d0": 0, "shared": 1}
    assert unchanged(node) == []


def test_another_key_is_asked_for_its_opinion(node: Node) -> None:
    """What was published is not trusted by it."""
    (Path(node.env["XDG_CONFIG_HOME"]) / "aotcache" / "signing.pem").unlink()
    aotcache("key", "generate", env=node.env)
    refused = aotcache(*node.words(), env=node.env, check=False)
    assert refused.returncode == 1
    assert "trusted keys" in refused.stderr


@pytest.mark.parametrize("everything", [False, True])
def test_settings_that_cannot_be_used_are_nobodys_tree(
    node: Node, tmp_path: Path, everything: bool
) -> None:
    words = ("push", "--all") if everything else node.words()[:2]
    words = (*words, "--cache-root", str(node.root))
    missing = aotcache(*words, "--signing-key", str(tmp_path / "no"), env=node.env, check=False)
    assert (missing.returncode, "cannot read" in missing.stderr) == (2, True)
    add(node.tree.path, "inductor_cache/fxgraph/ab/new", b"new")
    way = aotcache(*words, "--transfer", "direct", env=node.env, check=False)
    assert (way.returncode, "--storage-url" in way.stderr) == (2, True)


def test_no_service_is_told_whatever_has_changed(node: Node) -> None:
    with raw_server(serve_ok) as other:
        for url in (other.url, "http://127.0.0.1:1"):
            failed = aotcache(*node.words("--url", url), env=node.env, check=False)
            assert failed.returncode == 1
            assert url in failed.stderr
