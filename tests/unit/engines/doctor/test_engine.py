"""Findings on vLLM, torch, the plugin and the platform."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from aotcache.engines.doctor.engine import check_engine, check_platform
from aotcache.engines.doctor.findings import NOTE, OK, PROBLEM, Finding
from aotcache.engines.doctor.installed import Installed, Vllm
from support.vllm_source import install_torch

VLLM = Vllm(version="0.32.0", nests=True, hook=True, hashed=frozenset({"VLLM_PLUGINS"}))


def _find(
    environ: dict[str, str] | None = None,
    *,
    vllm: Vllm | None = VLLM,
    torch: str = "2.13.0+cu130",
    plugins: tuple[str, ...] = ("aotcache",),
) -> list[Finding]:
    return list(check_engine(Installed(torch=torch, vllm=vllm, plugins=plugins), environ or {}))


def _bad(findings: list[Finding], level: str = PROBLEM) -> str:
    assert all(finding.remedy for finding in findings if finding.level == PROBLEM)
    return "\n".join(finding.found for finding in findings if finding.level == level)


def test_all_well() -> None:
    assert {finding.level for finding in _find()} == {OK}


def test_without_vllm() -> None:
    assert [finding.level for finding in _find(vllm=None)] == [NOTE]


def test_a_vllm_that_does_not_nest() -> None:
    findings = _find(vllm=Vllm(version="0.10.0"))
    assert "/tmp/torchinductor_$USER" in _bad(findings)
    assert "cannot pull in the moment" in _bad(findings, NOTE)


def test_a_vllm_that_cannot_be_read() -> None:
    findings = _find(vllm=Vllm(version="", unread=("envs.py: gone",)))
    assert _bad(findings) == "its source cannot be read: envs.py: gone"


@pytest.mark.parametrize(
    ("torch", "level", "words"),
    [
        ("2.9.1", PROBLEM, "no AOT compile"),
        ("2.10.0", NOTE, "no mega-AOT"),
        ("2.11.0+cu130", NOTE, "no mega-AOT"),
        ("2.12.0", NOTE, ""),
    ],
)
def test_torch(torch: str, level: str, words: str) -> None:
    found = _bad(_find(torch=torch), level)
    assert words in found
    assert bool(words) == bool(found)


def test_the_plugin_is_not_found() -> None:
    assert "does not load it" in _bad(_find(plugins=()))


@pytest.mark.parametrize("value", ["", "other", "other,aotcache2"])
def test_vllm_plugins_leaves_it_out(value: str) -> None:
    assert "leaves `aotcache` out" in _bad(_find({"VLLM_PLUGINS": value}))


def test_vllm_plugins_is_not_stripped() -> None:
    assert "takes the space" in _bad(_find({"VLLM_PLUGINS": "other, aotcache"}))


def test_vllm_plugins_enters_the_hash() -> None:
    findings = _find({"VLLM_PLUGINS": "other,aotcache"})
    assert not _bad(findings)
    assert "enters vLLM's hash" in _bad(findings, NOTE)


def test_the_platform_of_this_machine() -> None:
    assert {finding.level for finding in check_platform(Installed())} <= {OK, NOTE}


def test_a_platform_that_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_torch(tmp_path, "2.13.0+xpu")
    with (tmp_path / "torch" / "version.py").open("a") as file:
        file.write("xpu = '20250'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("torch", "triton", "vllm"):  # as in a process that has imported none of them
        monkeypatch.delitem(sys.modules, name, raising=False)
    (finding,) = check_platform(Installed())
    assert (finding.level, "Intel" in finding.found) == (PROBLEM, True)


def test_torch_for_gpus_and_none_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_torch(tmp_path, "2.13.0+cu130")
    with (tmp_path / "torch" / "version.py").open("a") as file:
        file.write("cuda = '13.0'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("torch", "triton", "vllm"):  # as in a process that has imported none of them
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = list(check_platform(Installed(torch="2.13.0+cu130")))
    assert [finding.level for finding in found] == [OK, NOTE]
    assert "none is visible" in found[1].found
