"""Trees move from one store to another, and between namespaces, as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aotcache.core.trust import SIGNED, generate_key, make_policy, parse_trusted_keys
from aotcache.probe.trees import FoundTree, tree_path
from support.site import Service, aotcache, printed, publish_tree, run
from support.small import record, small_tree
from support.trees import H100, RECIPE, contents

STAGING = generate_key()
A100 = replace(H100, device="NVIDIA A100-SXM4-80GB", arch="sm_80")
PROFILE = {"notes": {"driver": "580"}, "hash_factors": {"env": "5"}, "compile_seconds": 41.0}


@pytest.fixture
def staged(service: Service, tmp_path: Path) -> FoundTree:
    """One hash for two platforms, signed by staging's key."""
    policy = make_policy(SIGNED, parse_trusted_keys(STAGING.public_line(), "test"))
    site = service.site(policy, signer=STAGING)
    trees = []
    for platform in (H100, A100):
        tree = small_tree(tmp_path / platform.arch, ranks=(0, 1), cpp=True, platform=platform)
        for rank in (0, 1):
            parts = ("shared", "rank_0_0-d0", "rank_1_0-d1")
            about: dict[str, Any] = {**PROFILE, "platform": platform, "expected_parts": parts}
            record(Path(tree.path), parts[rank + 1], **about)
        publish_tree(site, tree)
        trees.append(tree)
    return trees[0]


def env_of(service: Service, home: Path, *trusted: str) -> dict[str, str]:
    home.mkdir(exist_ok=True)
    (home / "keys").write_text("".join(f"{line}\n" for line in trusted))
    return {
        "AOTCACHE_URL": service.url,
        "XDG_CONFIG_HOME": str(home),
        "AOTCACHE_TRUSTED_KEYS": str(home / "keys"),
    }


def shown(env: dict[str, str], tree: FoundTree, namespace: str) -> Any:
    return printed(aotcache("show", tree.hash, "--namespace", namespace, "--json", env=env))


def test_from_staging_to_production(service: Service, staged: FoundTree, tmp_path: Path) -> None:
    here = env_of(service, tmp_path / "staging", STAGING.public_line())
    box = tmp_path / "box"
    done = printed(aotcache("export", staged.hash, "--to", str(box), "--json", env=here))
    assert sorted(one["tree"]["platform"] for one in done) == sorted((A100.id, H100.id))
    with run(tmp_path / "production") as other:
        there = env_of(other, tmp_path / "ops")
        public = aotcache("key", "generate", env=there).stdout.strip()
        (tmp_path / "ops/keys").write_text(public + "\n")
        words = ("import", str(box), "--namespace", "prod")
        refused = aotcache(*words, env=there, check=False)
        assert (refused.returncode, "none of the 1 trusted keys" in refused.stderr) == (1, True)
        (tmp_path / "ops/keys").write_text(f"{public}\n{STAGING.public_line()}\n")
        assert "published" in aotcache(*words, env=there).stdout
        again = printed(aotcache(*words, "--json", env=there))
        assert {part["status"] for one in again for part in one["parts"]} == {"already stored"}
        assert sum(one["uploaded_bytes"] for one in again) == 0
        # What the publishers knew came along; who answers for it is the importer.
        before, after = shown(here, staged, "default"), shown(there, staged, "prod")
        assert len(after["trees"]) == 2
        for one in (before, after):
            one["trees"].sort(key=lambda tree: tree["tree"]["platform_id"])
        for old, new in zip(before["trees"], after["trees"], strict=True):
            kept = ("platform_id", "recipe", "parts", "missing", "files", "raw_bytes")
            assert [new["tree"][name] for name in kept] == [old["tree"][name] for name in kept]
            assert (new["tree"]["compile_seconds"], new["notes"]) == (41.0, {"driver": "580"})
            assert new["hash_factors"] == {"env": "5"}
            signers = {key for part in new["parts"] for key in part["signers"]}
            assert (len(signers), STAGING.id in signers) == (1, False)
        platform = tmp_path / "h100.json"
        platform.write_text(json.dumps({name: getattr(H100, name) for name in H100.__slots__}))
        words = ("pull", staged.hash, "--platform", str(platform), "--namespace", "prod")
        aotcache(*words, "--cache-root", str(tmp_path / "node"), env=there)
    place = tree_path(str(tmp_path / "node"), staged.layout, staged.hash)
    assert set(contents(place)) == set(contents(staged.path))


def test_between_namespaces_and_only_what_is_asked_for(
    service: Service, staged: FoundTree, tmp_path: Path
) -> None:
    env = env_of(service, tmp_path / "staging", STAGING.public_line())
    box = str(tmp_path / "box")
    aotcache("export", "--all", "--platform-id", A100.id, "--to", box, env=env)
    env["AOTCACHE_TRUST"] = "unsigned"
    aotcache("import", box, "--namespace", "team-b", env=env)
    (moved,) = shown(env, staged, "team-b")["trees"]
    assert moved["tree"]["platform_id"] == A100.id
    assert moved["tree"]["recipe"]["model"] == RECIPE.model


def test_what_is_wrong_is_said(service: Service, staged: FoundTree, tmp_path: Path) -> None:
    env = env_of(service, tmp_path / "config", generate_key().public_line())
    box = str(tmp_path / "box")
    for words, status, why in (
        (("export", "--to", box), 2, "say which trees"),
        (("export", "f" * 64, "--to", box), 1, "no tree of hash"),
        (("export", staged.hash, "--to", box), 1, "trusted keys"),
        (("import", box), 2, "holds no exported tree"),
        (("import", str(tmp_path / "nothing")), 2, "cannot be read"),
    ):
        done = aotcache(*words, env=env, check=False)
        assert (done.returncode, why in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr
