"""Turns are taken, and those with few rounds take fewer."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench.timing import Contestant, alternate, timed


def writer(name: str, log: Path, rounds: int | None = None) -> Contestant:
    program = f"open({str(log)!r}, 'a').write('{name} ')"
    return Contestant(
        name=name,
        env=dict(os.environ),
        command=lambda number: [sys.executable, "-c", program, str(number)],
        rounds=rounds,
    )


def test_everyone_runs_once_a_round_and_the_first_one_does_not_count(tmp_path: Path) -> None:
    log = tmp_path / "log"
    found = alternate([writer("a", log), writer("b", log)], 2)
    assert {name: len(samples) for name, samples in found.items()} == {"a": 2, "b": 2}
    ran = log.read_text().split()
    assert [set(ran[at : at + 2]) for at in (0, 2, 4)] == [{"a", "b"}] * 3


def test_a_slow_one_runs_as_often_as_it_says(tmp_path: Path) -> None:
    log = tmp_path / "log"
    found = alternate([writer("slow", log, rounds=1)], 3)
    assert len(found["slow"]) == 1
    assert log.read_text() == "slow "


def test_what_fails_ends_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="failed with 3"):
        timed([sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ))
