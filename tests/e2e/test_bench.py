"""`aotcache bench`: a tree of the user's own, timed, and nothing of it left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.site import Service, aotcache
from support.small import small_tree
from support.trees import contents

pytestmark = pytest.mark.timeout(300)


def _env(service: Service, tmp_path: Path, trust: str) -> dict[str, str]:
    config = str(tmp_path / "config")
    return {"AOTCACHE_URL": service.url, "AOTCACHE_TRUST": trust, "XDG_CONFIG_HOME": config}


def test_a_tree_of_ones_own_is_timed_and_nothing_is_left(service: Service, tmp_path: Path) -> None:
    root = tmp_path / "node"
    tree = small_tree(root)
    before = contents(root)
    words = ("bench", tree.hash[:8], "--rounds", "2", "--cache-root", str(root))
    env = _env(service, tmp_path, "unsigned")
    report = json.loads(aotcache(*words, "--json", env=env).stdout)
    assert report["tree"] == f"{tree.layout}/{tree.hash}"
    assert {what: set(found) for what, found in report["seconds"].items()} == {
        "publish": {"aotcache", "tar | zstd -3, same disk"} - set(report["left_out"]),
        "publish again, unchanged": {"aotcache", "walk and stat"},
        "pull": {"aotcache", "cp -r, same disk", "tar | zstd -3, same disk"}
        - set(report["left_out"]),
    }
    assert all(len(n) == 2 for found in report["seconds"].values() for n in found.values())
    assert report["bytes"]["tree"] == sum(len(data) for data in contents(tree.path).values())
    assert 0 < report["bytes"]["uploaded"] <= report["bytes"]["moved"]
    assert contents(root) == before
    assert service.site().index.trees().trees == ()

    said = aotcache(*words[:2], "--rounds", "1", *words[4:], env=env).stdout
    assert "publish again, unchanged" in said
    assert "uploaded" in said


def test_a_failure_is_said_and_leaves_nothing(service: Service, tmp_path: Path) -> None:
    root = tmp_path / "node"
    tree = small_tree(root)
    before = contents(root)
    env = _env(service, tmp_path, "signed")
    done = aotcache(
        "bench", tree.hash, "--rounds", "1", "--cache-root", str(root), env=env, check=False
    )
    assert done.returncode == 1
    assert "(publish, aotcache)" in done.stderr
    assert "aotcache key trust" in done.stderr
    assert contents(root) == before
