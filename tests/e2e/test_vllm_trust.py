"""Real vLLM, and a tree that it must not load, or must not publish."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from aotcache.errors import NotFoundError
from aotcache.local.records import read_records, write_record
from aotcache.net.http import HttpClient
from aotcache.probe.trees import tree_path
from aotcache.protocol.names import VLLM_AOT
from aotcache.remote.index import Index
from support.process import eventually
from support.site import aotcache, printed, run
from support.vllm import start
from support.vllm_site import PublishedStart, plugin_env

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_another_graph_under_the_same_hash(vllm_published: PublishedStart, tmp_path: Path) -> None:
    """A start with LoRA published it, and the hash does not say so (vllm#50891)."""
    copy = tmp_path / "publisher"
    shutil.copytree(vllm_published.cache_root, copy)
    tree = tree_path(str(copy), VLLM_AOT, vllm_published.hash)
    for record in read_records(tree):
        assert record.recipe is not None
        write_record(tree, replace(record, recipe=replace(record.recipe, lora="rank 16 loras 4")))
    with run(tmp_path / "service") as service:
        env = plugin_env(service, headers=True)
        aotcache("push", vllm_published.hash, "--cache-root", str(copy), env=env)
        # An init container brings it, which knows no recipe.
        root = tmp_path / "node"
        aotcache("pull", vllm_published.hash, "--cache-root", str(root), env=env)
        started = vllm_published.fresh(root, env=env)
        assert started.exit_code == 0, started.log[-5000:]
        assert started.loaded == []
        assert started.tokens == vllm_published.started.tokens
        (warning,) = [line for line in started.aotcache if "WARNING" in line]
        assert "was compiled for another graph: lora rank 16 loras 4 (here none)" in warning
        # What it compiled lies there now, and is its own.
        again = start(root, env=env)
        assert [line for line in again.aotcache if "WARNING" in line] == []
        assert len(again.loaded) == 1

        allowed = vllm_published.fresh(tmp_path / "other", env={**env, "AOTCACHE_ANY_RECIPE": "1"})
        assert len(allowed.loaded) == 1
        assert allowed.tokens == vllm_published.started.tokens


def test_a_secret_of_the_engines_environment_is_not_published(
    vllm_published: PublishedStart, tmp_path: Path
) -> None:
    """The plugin's publisher has the engine's environment, and finds what of it is in the tree. Nor
    is the token told that it publishes with."""
    root = tmp_path / "node"
    shutil.copytree(vllm_published.cache_root, root)
    (root / ".aotcache" / "publisher.log").unlink(missing_ok=True)
    tree = Path(tree_path(str(root), VLLM_AOT, vllm_published.hash))
    secret = "correct-horse-battery"
    (tree / "inductor_cache" / "zz").mkdir()
    (tree / "inductor_cache" / "zz" / "czz.py").write_text(f"# {secret}\n")
    with run(tmp_path / "service") as service:
        words = ("token", "create", "--data-dir", str(service.data), "--json")
        token = str(printed(aotcache(*words, "--scope", "publish"))["token"])
        env = {
            **plugin_env(service, publishes=True, headers=True),
            "AOTCACHE_TOKEN": token,
            "REGISTRY_PASSWORD": secret,
        }
        started = start(root, env=env)
        assert started.exit_code == 0, started.log[-5000:]
        log = root / ".aotcache" / "publisher.log"
        said = eventually(
            lambda: text if "REGISTRY_PASSWORD" in (text := log.read_text()) else None,
            "the publisher says what it found",
        )
        assert "czz.py holds, at byte 2, the value of REGISTRY_PASSWORD" in said
        for text in (started.log, said, service.log.read_text()):
            assert token not in text
            assert secret not in text
        # Other trees of the start hold no secret.
        detail = Index(HttpClient(service.url, token)).tree
        with pytest.raises(NotFoundError):
            detail(vllm_published.hash)
