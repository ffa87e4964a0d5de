"""What is read of installed packages, without importing one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from aotcache.engines.doctor.installed import read_installed
from aotcache.probe.sources import package_directory, release
from support.vllm_source import (
    ENVS,
    OLD_DECORATORS,
    OLD_ENVS,
    install_plugin,
    install_torch,
    install_vllm,
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("torch", "triton", "vllm"):  # as in a process that has imported none of them
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_current_vllm(site: Path) -> None:
    install_vllm(site)
    vllm = read_installed().vllm
    assert vllm is not None
    assert (vllm.version, vllm.nests, vllm.hook, vllm.unread) == ("0.32.0", True, True, ())
    assert vllm.hashed == {
        "VLLM_PLUGINS",
        "VLLM_P2P_SIDE_CHANNEL_HOST",
        "VLLM_RAY_BUNDLE_INDICES",
        "VLLM_NCCL_SO_PATH",
        "VLLM_USE_DEEP_GEMM",
        "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES",
    }


def test_an_old_vllm_names_what_it_hashes(site: Path) -> None:
    install_vllm(site, version="0.10.0", envs=OLD_ENVS, decorators=OLD_DECORATORS)
    vllm = read_installed().vllm
    assert vllm is not None
    assert (vllm.version, vllm.nests, vllm.hook) == ("0.10.0", False, False)
    assert vllm.hashed == {"VLLM_USE_TRITON_AWQ"}


def test_a_hook_that_takes_something_else_is_not_the_hook(site: Path) -> None:
    install_vllm(
        site, decorators="def _try_load_aot_compiled_fn(model, vllm_config, path): return None\n"
    )
    vllm = read_installed().vllm
    assert vllm is not None
    assert not vllm.hook


@pytest.mark.parametrize("envs", ["x = 1\n", ENVS.replace("ignored_factors", "left_out")])
def test_an_unknown_hash_is_not_guessed(site: Path, envs: str) -> None:
    install_vllm(site, envs=envs)
    vllm = read_installed().vllm
    assert vllm is not None
    assert vllm.hashed is None


@pytest.mark.parametrize("text", [None, "def (", "\x00"])
def test_a_source_that_cannot_be_read_is_named(site: Path, text: str | None) -> None:
    install_vllm(site, decorators=text)
    vllm = read_installed().vllm
    assert vllm is not None
    assert len(vllm.unread) == 1
    assert vllm.unread[0].startswith("compilation/decorators.py: ")


def test_a_directory_of_the_name_is_no_package(site: Path) -> None:
    (site / "vllm").mkdir()
    assert package_directory("vllm") is None
    assert read_installed().vllm is None


def test_versions_and_the_entry_point(site: Path) -> None:
    install_torch(site, "2.9.1+cu128")
    install_plugin(site)
    installed = read_installed()
    assert installed.torch == "2.9.1+cu128"
    assert installed.triton
    assert "aotcache" in installed.plugins
    assert "other" not in installed.plugins


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.13.0+cpu", (2, 13)), ("2.9.0a0+git1", (2, 9)), ("", (0, 0)), ("nightly", (0, 0))],
)
def test_release(version: str, expected: tuple[int, int]) -> None:
    assert release(version) == expected
