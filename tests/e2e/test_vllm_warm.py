"""Real vLLM with the plugin: what was compiled once is loaded elsewhere, at another path."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from aotcache.protocol.names import LAYOUTS
from aotcache.protocol.v1.trees import TreeDetail
from support.process import eventually
from support.site import aotcache, printed, run
from support.vllm import Started, compiled_files, launch, start
from support.vllm_site import (
    PublishedStart,
    cold_start,
    hash_of,
    plugin_env,
    published,
    root_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LIGHT = {
    "aotcache",
    "aotcache.engines",
    "aotcache.engines.vllm",
    "aotcache.engines.vllm.cpp",
    "aotcache.engines.vllm.hooks",
    "aotcache.settings",
}
REBUILDS = ("fxgraph_lookup_write_file", "triton_bundler_read_and_emit_kernel")


def outcomes(published: PublishedStart, outcome: str, count: int) -> None:
    """Wait until the service has been told so many: nobody waits for that in the engine."""

    def look() -> TreeDetail | None:
        detail = published.detail()
        return detail if detail.tree.outcomes.get(outcome, 0) >= count else None

    eventually(look, f"{count} {outcome} or more, not {published.detail().tree.outcomes}")


def check_warm(warm: Started, cold: Started) -> None:
    assert warm.exit_code == 0, warm.log[-5000:]
    assert len(warm.loaded) == len(cold.saved)
    assert warm.saved == []
    assert warm.built == []
    assert [warm.inductor(counter) for counter in REBUILDS] == [0, 0]
    assert warm.tokens == cold.tokens


def test_a_cold_start_is_published_as_it_was(vllm_published: PublishedStart) -> None:
    started, detail = vllm_published.started, vllm_published.detail()
    (line,) = started.aotcache
    assert "miss: backbone" in line
    assert "unknown_hash" in line
    assert "not covered: graph capture" in line
    assert detail.tree.parts == ("rank_0_0-d0", "shared")
    assert detail.tree.missing == ()
    assert detail.tree.compile_seconds == pytest.approx(started.compile_seconds[0], abs=0.1)
    recipe = detail.tree.recipe
    assert recipe is not None
    assert (recipe.engine, recipe.engine_version, recipe.dtype) == ("vllm", "0.32.0", "bfloat16")
    assert recipe.extra["max_model_len"] == "512"
    assert {"env", "config", "forward", "compiler.0", "config.model_config"} <= set(
        detail.hash_factors
    )
    assert detail.hash_factors["env.VLLM_USE_MEGA_AOT_ARTIFACT"] == "true"


def test_a_miss_is_explained(vllm_published: PublishedStart, tmp_path: Path) -> None:
    """By the variable that the nodes do not have in common, as the engine hashed it."""
    name = "VLLM_RAY_BUNDLE_INDICES"
    env = {**vllm_published.env, name: "0"}
    started = start(tmp_path / "root", env=env)
    assert started.exit_code == 0, started.log[-5000:]
    assert "unknown_hash" in started.aotcache[-1]

    def told() -> dict[str, Any] | None:
        found = printed(aotcache("misses", "--json", env=vllm_published.env))["groups"]
        return next((one for one in found if one["cause"] == f"env.{name}"), None)

    group = eventually(told, f"a miss because of {name}")
    assert (group["reason"], group["nodes"], group["node"]) == (
        "unknown_hash",
        1,
        socket.gethostname(),
    )
    assert group["differences"] == [{"field": f"env.{name}", "stored": '""', "asked": '"0"'}]
    words = ("lookup", group["hash"], "--explain", "--cache-root", str(tmp_path / "root"))
    said = aotcache(*words, "--platform", "detect", env=vllm_published.env, check=False).stdout
    assert f"factor env.{name}: stored" in said, said


def test_only_the_worker_works(vllm_published: PublishedStart) -> None:
    """Where a command line is parsed or a model inspected nothing is started or asked."""
    for process in vllm_published.started.processes:
        assert process.threads == 0, process.role
        if process.rank is None:
            assert set(process.modules) <= LIGHT, process.role
        # Not even the worker: its companion and the publisher do it.
        assert "aotcache.net.http" not in process.modules, process.role


def test_a_fresh_node_starts_warm(vllm_published: PublishedStart, tmp_path: Path) -> None:
    root = tmp_path / "another" / "place"
    told = vllm_published.detail().tree.outcomes
    warm = vllm_published.fresh(root)
    check_warm(warm, vllm_published.started)
    stored = {name.split("/", 1)[1] for name in compiled_files(vllm_published.cache_root)}
    found = {name.split("/", 1)[1] for name in compiled_files(root)}
    trees = re.compile(r"torch_aot_compile/[0-9a-f]{64}/")
    assert {n for n in found if trees.match(n)} == {n for n in stored if trees.match(n)}
    (line,) = warm.aotcache
    assert re.search(r"hit: backbone \w{12} loaded in [\d.]+ s instead of [\d.]+ s", line), line
    assert re.search(r"kB moved in [\d.]+ s, unsigned parts accepted, waited [\d.]+ s; ", line), (
        line
    )
    assert "not covered: graph capture" in line
    outcomes(vllm_published, "loaded", told.get("loaded", 0) + 1)

    # The second start on the same disk asks nobody, and its outcome was told already.
    before = vllm_published.detail().tree
    again = start(root, env=vllm_published.env)
    check_warm(again, vllm_published.started)
    assert "on this disk already: backbone" in again.aotcache[-1]
    assert "nothing moved, waited 0.0 s" in again.aotcache[-1]
    after = vllm_published.detail().tree
    assert (after.lookups, after.outcomes) == (before.lookups, before.outcomes)


def test_two_starts_at_once_share_a_fetch(vllm_published: PublishedStart, tmp_path: Path) -> None:
    env = vllm_published.env
    told = vllm_published.detail().tree.outcomes.get("loaded", 0)
    both = [launch(tmp_path / "root", env=env, limit_seconds=400) for _ in range(2)]
    warm = [starting.wait() for starting in both]
    for one in warm:
        check_warm(one, vllm_published.started)
    moved = [re.findall(r"([\d.]+) kB moved", one.aotcache[-1]) for one in warm]
    # One moved it all; the other found it there, or came when it was.
    assert len([size for sizes in moved for size in sizes if float(size) > 0]) == 1
    # Each of the two saw that nobody had told it yet, or the second one did not.
    eventually(
        lambda: vllm_published.detail().tree.outcomes["loaded"] in (told + 1, told + 2) or None,
        "an outcome of the pull",
    )


def test_an_init_container_pulls_by_the_command(
    vllm_published: PublishedStart, tmp_path: Path
) -> None:
    """And vLLM then needs no service."""
    root = tmp_path / "root"
    model = str(Path(__file__).parents[1] / "vllm_cpu" / "model")
    env = {**vllm_published.env, "VLLM_CACHE_ROOT": str(root)}
    command = f"vllm serve {model} --dtype bfloat16 --max-model-len 512 --port 8000"
    done = aotcache("pull", "--recipe-of", command, env=env)
    assert vllm_published.hash[:12] in done.stdout
    env["AOTCACHE_URL"] = "http://127.0.0.1:9"
    warm = vllm_published.fresh(root, env=env)
    check_warm(warm, vllm_published.started)


def test_ranks_of_two_nodes_are_one_tree(tmp_path: Path) -> None:
    """Each with a cache root of its own, and a publisher there."""
    with run(tmp_path / "service") as service:
        cold = cold_start(service, tmp_path / "cold" / "node{rank}", ranks=2)
        assert len(cold.saved) == 2
        assert sorted(root_of(path).name for path in cold.saved) == ["node0", "node1"]
        name = hash_of(cold.saved[0])
        (detail,) = service.site().index.tree(name).trees
        assert detail.tree.parts == ("rank_0_0-d0", "rank_1_0-d0", "shared")
        assert detail.tree.missing == ()
        fresh = tmp_path / "fresh"
        warm = start(fresh, ranks=2, env=plugin_env(service))
        check_warm(warm, cold)
        assert len(warm.aotcache) == 2
        assert all("hit: backbone" in line for line in warm.aotcache)

        def told() -> bool | None:
            (found,) = service.site().index.tree(name).trees
            return True if found.tree.outcomes == {"loaded": 2} else None

        eventually(told, "an outcome a rank")


def test_one_compiles_and_the_other_waits(tmp_path: Path) -> None:
    """Two nodes that start on the same hash, which nobody has compiled yet."""
    with run(tmp_path / "service") as service:
        env = {**plugin_env(service, publishes=True), "AOTCACHE_WAIT": "200"}
        both = [launch(tmp_path / name, env=env, limit_seconds=500) for name in ("one", "two")]
        ended = [starting.wait() for starting in both]
        (compiled,) = [one for one in ended if one.saved]
        (waited,) = [one for one in ended if not one.saved]
        check_warm(waited, compiled)
        assert "miss: backbone" in compiled.aotcache[-1]
        begun, line = waited.aotcache
        assert re.search(r"has been compiling it for \d+ s: waiting .* at most \d+ s", begun), begun
        assert re.search(r"hit: backbone .* and [\d.]+ s for another node that compiled", line), (
            line
        )
        published(root_of(compiled.saved[0]))
        (detail,) = service.site().index.tree(hash_of(compiled.saved[0])).trees
        assert [part.generation for part in detail.parts] == [1, 1]


def test_the_older_pair_travels_together(vllm_published: PublishedStart, tmp_path: Path) -> None:
    """Its recipe is that of the tree in one artifact, which is fetched early and not selected."""
    service = vllm_published.service
    before = {tree.hash for tree in service.site().index.trees().trees}
    cold = cold_start(service, tmp_path / "cold", mega=False)
    outcomes(vllm_published, "unused", 1)
    stored = [tree for tree in service.site().index.trees().trees if tree.hash not in before]
    assert sorted(tree.layout for tree in stored) == ["vllm-aot", "vllm-jit"]

    root = tmp_path / "fresh"
    warm = start(root, mega=False, env=plugin_env(service), inspected=tmp_path / "cold")
    assert warm.exit_code == 0, warm.log[-5000:]
    assert len(warm.loaded) == 1
    assert warm.saved == warm.built == []
    assert warm.tokens == cold.tokens
    assert "Directly load the compiled graph(s)" in warm.log
    assert "hit: backbone" in warm.aotcache[-1]
    paths = {name for name in compiled_files(root) if name.endswith(".so")}
    assert paths <= set(compiled_files(tmp_path / "cold"))

    # By its name alone the one brings the other.
    aot, jit = (next(t for t in stored if t.layout == layout) for layout in LAYOUTS[:2])
    env = {**plugin_env(service), "VLLM_CACHE_ROOT": str(tmp_path / "third")}
    aotcache("pull", aot.hash, env=env)
    tree = tmp_path / "third" / "torch_compile_cache" / jit.hash
    assert len(list(tree.rglob("vllm_compile_cache.py"))) == 1
