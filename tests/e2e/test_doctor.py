"""`aotcache doctor` as a user runs it: real service, real mounts, packages that may not be
imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.site import AOTCACHE, Service, aotcache, printed, publish_tree
from support.small import small_tree
from support.vllm_source import (
    OLD_DECORATORS,
    OLD_ENVS,
    install_plugin,
    install_torch,
    install_vllm,
)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A node with vLLM 0.32 and the plugin, without a service."""
    install_vllm(tmp_path / "site")
    install_torch(tmp_path / "site", "2.13.0+cpu")
    install_plugin(tmp_path / "site")
    return {
        "PYTHONPATH": str(tmp_path / "site"),
        "AOTCACHE_TRUST": "unsigned",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "VLLM_CACHE_ROOT": str(tmp_path / "root"),
    }


def _doctor(env: dict[str, str], *words: str) -> tuple[int, list[dict[str, str]]]:
    done = aotcache("doctor", "--json", *words, env=env, check=False)
    assert done.stderr == ""
    findings: list[dict[str, str]] = printed(done)
    for finding in findings:
        assert list(finding) == ["level", "subject", "found", "remedy"]
    return done.returncode, findings


def _problems(findings: list[dict[str, Any]]) -> list[str]:
    return [finding["found"] for finding in findings if finding["level"] == "problem"]


def test_all_well(env: dict[str, str], service: Service, tmp_path: Path) -> None:
    publish_tree(service.site(), small_tree(tmp_path / "other"))
    env["AOTCACHE_URL"] = service.url
    code, findings = _doctor(env)
    assert (code, _problems(findings)) == (0, [])
    answers = [each["found"] for each in findings if each["subject"] == "service"]
    assert len(answers) == 1
    assert answers[0].startswith(f"{service.url} answers, version ")
    done = aotcache("doctor", env=env)
    assert done.stdout.splitlines()[-1].startswith("no problems, ")


def test_problems_come_last_with_what_to_do(env: dict[str, str]) -> None:
    env |= {"TRITON_CACHE_DIR": "/elsewhere", "AOTCACHE_URL": "http://127.0.0.1:1"}
    done = aotcache("doctor", env=env, check=False)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    levels = [line.split()[0] for line in lines[:-1] if not line.startswith(" ")]
    assert levels == sorted(levels, key=["ok", "note", "problem"].index)
    trap = next(index for index, line in enumerate(lines) if "TRITON_CACHE_DIR" in line)
    assert lines[trap + 1].split() == ["->", "unset", "it"]
    assert lines[-1].startswith("2 problems, ")


def test_nothing_is_set_up(tmp_path: Path) -> None:
    code, findings = _doctor({"XDG_CONFIG_HOME": str(tmp_path), "VLLM_CACHE_ROOT": str(tmp_path)})
    assert code == 1
    said = _problems(findings)
    assert any("AOTCACHE_URL is not set" in found for found in said)
    assert any("no trusted key" in found for found in said)


def test_the_url_of_the_command_line(env: dict[str, str], service: Service) -> None:
    _, findings = _doctor(env, "--url", service.url)
    assert not _problems(findings)
    assert any("command line" in finding["found"] for finding in findings)


def test_an_old_vllm(env: dict[str, str], tmp_path: Path) -> None:
    site = tmp_path / "old"
    install_vllm(site, version="0.10.0", envs=OLD_ENVS, decorators=OLD_DECORATORS)
    install_torch(site, "2.9.1+cpu")
    said = _problems(_doctor({**env, "PYTHONPATH": str(site)})[1])
    for words in ("/tmp/torchinductor_$USER", "2.9.1+cpu has no AOT compile"):
        assert any(words in found for found in said)


def test_variables_of_one_node(env: dict[str, str]) -> None:
    env |= {
        "VLLM_P2P_SIDE_CHANNEL_HOST": "10.11.12.13",
        "VLLM_HOST_IP": "10.11.12.13",
        "VLLM_PLUGINS": "other",
    }
    said = "\n".join(_problems(_doctor(env)[1]))
    assert "VLLM_P2P_SIDE_CHANNEL_HOST enters vLLM's hash" in said
    assert "VLLM_HOST_IP" not in said
    assert "leaves `aotcache` out" in said


def test_bytes_that_are_no_text(env: dict[str, str]) -> None:
    words = [*AOTCACHE, "doctor"]
    environ = {os.fsencode(k): os.fsencode(v) for k, v in {**os.environ, **env}.items()}
    environ |= {b"TRITON_CACHE_DIR": b"/\xff\n", b"VLLM_CACHE_ROOT": b"/tmp/\xfe"}
    for extra in ((), ("--json",)):
        done = subprocess.run([*words, *extra], env=environ, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (1, b"")
        assert b"TRITON_CACHE_DIR" in done.stdout


def _mounting() -> list[str] | None:
    """What puts a command into mounts of its own, where this machine allows it."""
    for words in (["unshare", "-m"], ["unshare", "-rm"]):
        tried = [*words, "sh", "-c", "mount -t tmpfs -o noexec tmpfs /mnt"]
        if subprocess.run(tried, capture_output=True, check=False).returncode == 0:
            return words
    return None


def test_a_noexec_mount(env: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "mounted"
    root.mkdir()
    env["VLLM_CACHE_ROOT"] = str(root / "cache")
    words = [sys.executable, "-m", "aotcache", "doctor", "--json"]
    private = _mounting()
    if private is None:
        # Mounts are forbidden here, and then some of this machine's own are noexec.
        env["VLLM_CACHE_ROOT"] = "/proc/self"
        run = words
    else:
        mount = 'mount -t tmpfs -o noexec tmpfs "$0" && exec "$@"'
        run = [*private, "sh", "-c", mount, str(root), *words]
    done = subprocess.run(
        run, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    said = _problems(json.loads(done.stdout))
    assert any("mounted noexec" in found for found in said)


def test_a_disk_that_takes_no_more(env: dict[str, str], tmp_path: Path) -> None:
    env["VLLM_CACHE_ROOT"] = str(tmp_path)
    words = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *AOTCACHE, "doctor", "--json"]
    done = subprocess.run(
        words, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True, check=False
    )
    assert any(
        "cannot be written (File too large)" in x for x in _problems(json.loads(done.stdout))
    )
