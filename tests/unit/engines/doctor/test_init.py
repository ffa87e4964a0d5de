"""All checks together: nothing raises, nothing hangs, nothing that it says is unprintable."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aotcache.engines.doctor import Finding, Setup, examine, run_check
from aotcache.engines.doctor.findings import PROBLEM, ok, problem
from support.vllm_source import install_vllm


def _first() -> Finding:
    return ok("some", "found before")


def test_a_check_that_fails_is_a_finding() -> None:
    def check() -> Iterator[Finding]:
        yield _first()
        raise ZeroDivisionError("why")

    before, failed = run_check("some", check)
    assert before == _first()
    assert (failed.level, failed.subject) == (PROBLEM, "some")
    assert "ZeroDivisionError: why" in failed.found


def test_a_check_that_does_not_end_is_a_finding() -> None:
    over = threading.Event()

    def check() -> Iterator[Finding]:
        yield _first()
        over.wait()

    before, failed = run_check("some", check, seconds=0.2)
    over.set()
    assert before == _first()
    assert "does not answer" in failed.found


def test_what_is_said_is_printable() -> None:
    finding = problem("some", "a\nb\x1b[31m\udcff", "\t")
    assert finding.found == r"a\nb\x1b[31m\udcff"
    assert finding.remedy == r"\t"


def test_every_subject_is_examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_vllm(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    setup = Setup(environ={}, cache_root=str(tmp_path / "root"), namespace="default")
    subjects = {finding.subject for finding in examine(setup)}
    assert subjects >= {"service", "storage", "trust", "vllm", "plugin", "platform"}
    assert subjects >= {"environment", "cache root", "trees", "hash"}
    assert not any("could not be examined" in finding.found for finding in examine(setup))
