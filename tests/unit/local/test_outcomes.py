"""Outcomes on disk: kept until the service has heard them, each told once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from aotcache.errors import (
    AotcacheError,
    LocalError,
    NotFoundError,
    RemoteError,
    UnavailableError,
    UsageError,
)
from aotcache.local.outcomes import has_kept, keep_outcome, tell_outcomes
from aotcache.local.state import TreeState
from aotcache.protocol.v1.outcomes import Outcome


def _outcome(number: int) -> Outcome:
    return Outcome(
        layout="vllm-aot",
        hash="a" * 64,
        platform="b" * 32,
        part=f"rank_{number}_0-d{number}",
        generation=1,
        outcome="loaded",
        node="node",
        seconds=1.0,
        bytes=10,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        keep_outcome(str(tmp_path / ("a" * 64)), _outcome(number))
    return tmp_path


def _kept(folder: Path) -> int:
    return len(list((folder / ".aotcache/outcomes").glob("*.json")))


def test_all_are_told_and_then_forgotten(folder: Path) -> None:
    told: list[Outcome] = []
    assert has_kept(str(folder))
    assert tell_outcomes(str(folder), told.append) == 3
    assert sorted(told, key=lambda outcome: outcome.part) == [_outcome(n) for n in range(3)]
    assert not has_kept(str(folder))
    assert tell_outcomes(str(folder), told.append) == 0


def test_nothing_kept_leaves_no_trace(tmp_path: Path) -> None:
    assert tell_outcomes(str(tmp_path), lambda outcome: None) == 0  # noqa: ARG005
    assert not has_kept(str(tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_is_away_hears_the_rest_later(folder: Path) -> None:
    told: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        if told:
            raise UnavailableError("no answer")
        told.append(outcome)

    with pytest.raises(UnavailableError):
        tell_outcomes(str(folder), tell)
    assert _kept(folder) == 2
    assert tell_outcomes(str(folder), told.append) == 2
    assert len({outcome.part for outcome in told}) == 3


@pytest.mark.parametrize("error", [NotFoundError, RemoteError, UsageError])
def test_what_the_service_refuses_is_dropped(folder: Path, error: type[AotcacheError]) -> None:
    def tell(outcome: Outcome) -> None:
        if outcome.part == "rank_1_0-d1":
            raise error("its tree is deleted")

    assert tell_outcomes(str(folder), tell) == 2
    assert not has_kept(str(folder))


def test_what_cannot_be_read_is_dropped(folder: Path) -> None:
    outcomes = folder / ".aotcache/outcomes"
    (outcomes / "0000.json").write_bytes(b"{}")
    (outcomes / "0001.json").write_bytes(b'{"outcome": "exploded"}')
    told: list[Outcome] = []
    assert tell_outcomes(str(folder), told.append) == 3
    assert not has_kept(str(folder))


def test_what_a_killed_writer_left_is_no_outcome(tmp_path: Path) -> None:
    outcomes = tmp_path / ".aotcache/outcomes"
    outcomes.mkdir(parents=True)
    (outcomes / "0123456789abcdef.json.01234567.tmp").write_bytes(b'{"half')
    assert not has_kept(str(tmp_path))


def test_several_that_tell_at_once_tell_each_once(folder: Path) -> None:
    told: list[Outcome] = []
    second: list[int] = []
    other = threading.Thread(
        target=lambda: second.append(tell_outcomes(str(folder), told.append)), daemon=True
    )

    def tell(outcome: Outcome) -> None:
        if not told:
            other.start()  # while this one is at the first
        told.append(outcome)

    assert tell_outcomes(str(folder), tell) == 3
    other.join(30)
    assert second == [0]
    assert len(told) == 3


def test_outcomes_lie_where_only_this_user_writes(folder: Path) -> None:
    (folder / ".aotcache").chmod(0o777)
    with pytest.raises(LocalError, match="written by others"):
        keep_outcome(str(folder / ("a" * 64)), _outcome(0))


def test_they_are_of_all_trees_of_a_folder(folder: Path) -> None:
    assert TreeState(str(folder / "x")).outcomes == TreeState(str(folder / "y")).outcomes
