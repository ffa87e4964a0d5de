"""Variables that enter vLLM's hash, and whose values are one node's own."""

from __future__ import annotations

import socket

import pytest

from aotcache.engines.doctor.findings import NOTE, OK, PROBLEM, Finding
from aotcache.engines.doctor.hashing import belongs_to_a_node, check_hashing
from aotcache.engines.doctor.installed import Vllm

HASHED = ("VLLM_PLUGINS", "VLLM_A", "VLLM_B", "VLLM_RAY_BUNDLE_INDICES", "CUDA_HOME")
VLLM = Vllm(version="0.32.0", hashed=frozenset(HASHED))


def _find(environ: dict[str, str], vllm: Vllm = VLLM) -> list[Finding]:
    return list(check_hashing({"HOME": "/home/me", **environ}, vllm))


def test_what_does_not_enter_the_hash_is_not_spoken_of() -> None:
    (finding,) = _find({"VLLM_HOST_IP": "10.0.0.1", "VLLM_PLUGINS": "aotcache"})
    assert finding.level == OK


def test_plain_values_are_one_note_without_the_values() -> None:
    (finding,) = _find({"VLLM_B": "hunter2", "VLLM_A": "1", "CUDA_HOME": "/usr/local/cuda"})
    assert finding.level == NOTE
    assert "CUDA_HOME, VLLM_A, VLLM_B" in finding.found
    assert "hunter2" not in finding.found


def test_a_value_of_this_node() -> None:
    (finding,) = _find({"VLLM_A": "tcp://user:hunter2@10.1.2.3:5600"})
    assert finding.level == PROBLEM
    assert "the address 10.1.2.3" in finding.found
    assert "hunter2" not in finding.found


def test_bundle_indices_are_a_process_of_its_own() -> None:
    (finding,) = _find({"VLLM_RAY_BUNDLE_INDICES": "0,1"})
    assert finding.level == PROBLEM


@pytest.mark.parametrize("value", ["~/lib.so", "/home/me/lib.so"])
def test_a_path_under_home(value: str) -> None:
    (finding,) = _find({"VLLM_A": value})
    assert finding.level == NOTE
    assert "home directory" in finding.found


def test_an_unknown_hash_is_a_note() -> None:
    (finding,) = _find({"VLLM_A": "10.0.0.1"}, Vllm(version="9.9"))
    assert finding.level == NOTE


@pytest.mark.parametrize(
    "value",
    [
        "10.0.0.7",
        "10.0.0.7:80",
        "http://[fd00::7]:80/x",
        "fe80::1%eth0",
        "a,192.168.1.1,b",
        "/var/lib/kubelet/pods/0f2b6f1e-2c1f-4b8e-9d8c-1d2f3a4b5c6d/x",
        "0F2B6F1E-2C1F-4B8E-9D8C-1D2F3A4B5C6D",
    ],
)
def test_belongs_to_a_node(value: str) -> None:
    assert belongs_to_a_node(value)


@pytest.mark.parametrize(
    "value",
    ["", "1", "5600", "127.0.0.1", "0.0.0.0", "::1", "localhost:80", "2.13.0", "1,2", "/usr/lib"],
)
def test_belongs_to_all(value: str) -> None:
    assert belongs_to_a_node(value) is None


@pytest.mark.parametrize(
    ("host", "value", "found"),
    [
        ("node-17.example", "node-17", True),
        ("node-17.example", "tcp://node-17.example:80", True),
        ("node-17", "node-170", False),
        ("gpu", "gpu", False),
        ("localhost", "localhost", False),
    ],
)
def test_the_name_of_this_host(
    monkeypatch: pytest.MonkeyPatch, host: str, value: str, found: bool
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)  # not to rename the machine
    assert (belongs_to_a_node(value) is not None) == found
