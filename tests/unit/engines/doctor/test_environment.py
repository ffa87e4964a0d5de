"""Variables that switch caches off, move them, or make a miss fatal."""

from __future__ import annotations

import pytest

from aotcache.engines.doctor.environment import check_environment
from aotcache.engines.doctor.findings import NOTE, OK, PROBLEM
from aotcache.engines.doctor.installed import Installed, Vllm

NEW = Installed(vllm=Vllm(version="0.32.0", nests=True))
OLD = Installed(vllm=Vllm(version="0.10.0"))


@pytest.mark.parametrize("installed", [NEW, OLD, Installed()])
def test_nothing_set(installed: Installed) -> None:
    (finding,) = check_environment({"HOME": "/root", "VLLM_USE_AOT_COMPILE": "1"}, installed)
    assert finding.level == OK


@pytest.mark.parametrize(
    ("name", "value", "level"),
    [
        ("TRITON_CACHE_DIR", "/elsewhere", PROBLEM),
        ("TORCHINDUCTOR_CACHE_DIR", "/elsewhere", NOTE),
        ("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1", PROBLEM),
        ("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "0", OK),
        ("TORCH_COMPILE_FORCE_DISABLE_CACHES", "1", PROBLEM),
        ("TORCHINDUCTOR_FX_GRAPH_CACHE", "0", PROBLEM),
        ("TORCHINDUCTOR_FX_GRAPH_CACHE", "1", OK),
        ("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "1", NOTE),
        ("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0", OK),
        ("VLLM_DISABLE_COMPILE_CACHE", "1", PROBLEM),
        ("VLLM_DISABLE_COMPILE_CACHE", "0", OK),
        ("VLLM_USE_AOT_COMPILE", "0", PROBLEM),
        ("VLLM_USE_AOT_COMPILE", "true", PROBLEM),  # vLLM knows only 1
        ("VLLM_BATCH_INVARIANT", "1", PROBLEM),
        ("VLLM_USE_MEGA_AOT_ARTIFACT", "0", NOTE),
        ("VLLM_FORCE_AOT_LOAD", "1", PROBLEM),
        ("VLLM_FORCE_AOT_LOAD", "0", OK),
        ("TRITON_SERVER_API_KEY", "hunter2", PROBLEM),
        ("TRITON_SERVER_PORT", "tcp://10.0.0.1:80", OK),
    ],
)
def test_one_variable(name: str, value: str, level: str) -> None:
    (finding,) = check_environment({name: value}, NEW)
    assert finding.level == level
    assert level == OK or (name in finding.found and finding.remedy)
    assert "hunter2" not in finding.found + finding.remedy


def test_what_only_vllm_reads_does_not_matter_without_it() -> None:
    (finding,) = check_environment({"VLLM_USE_AOT_COMPILE": "0"}, Installed())
    assert finding.level == OK


def test_an_inductor_directory_is_overridden_by_a_vllm_that_nests() -> None:
    environ = {"TORCHINDUCTOR_CACHE_DIR": "/elsewhere"}
    assert "vLLM overrides it" in next(iter(check_environment(environ, NEW))).found
    for installed in (OLD, Installed()):
        assert "outside the cache root" in next(iter(check_environment(environ, installed))).found
