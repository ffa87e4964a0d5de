"""The page of results, made from the samples."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.bars import BARS, NEAR_PULL, held
from bench.peers import AWS, CP
from bench.report import render
from bench.servers import SERVICE
from bench.sizes import NEW, UPLOADED
from bench.watching import WATCHES


def data(**parts: dict[str, Any]) -> dict[str, Any]:
    whole = {
        "date": "2026-01-02",
        "commit": "abc1234",
        "load": {"before": 0.1, "after": 0.2},
        "seconds": 60,
        "rounds": 3,
        "runs": {},
        "numbers": {},
        "left_out": {},
    }
    return {
        "machine": {
            "cpu": "A CPU",
            "cores": 2,
            "memory_bytes": 2**33,
            "kernel": "6.1",
            "file_system": "ext4",
        },
        "versions": {"aotcache": "1.0", "commit": "abc1234", "zstd": "1.5"},
        "work": {"name": "eight", "files": 10_294, "bytes": 414_300_000},
        "parts": {name: {**whole, **part} for name, part in parts.items()},
    }


def samples(*seconds: float) -> list[dict[str, float]]:
    return [{"seconds": one, "cpu_seconds": one / 2} for one in seconds]


PULLED = data(
    pull={
        "runs": {
            NEAR_PULL: {SERVICE: samples(2, 9, 1), CP: samples(4, 3, 5), AWS: samples(79, 81)}
        },
        "left_out": {"s5cmd cp": "it is missing"},
    }
)


def test_medians_are_compared_and_means_are_not() -> None:
    found = {one.bar.theirs: (one.value, one.reached) for one in held(PULLED)}
    assert found == {AWS: (40.0, True), CP: (0.5, True)}


def test_a_bar_is_missed_by_a_little_too() -> None:
    slower = data(pull={"runs": {NEAR_PULL: {SERVICE: samples(2.01), AWS: samples(80)}}})
    (found,) = held(slower)
    assert not found.reached


@pytest.mark.parametrize(("count", "reached"), [(1000, True), (1001, False)])
def test_a_number_is_held_against_the_bar_itself(count: int, reached: bool) -> None:
    (found,) = held(data(watching={"numbers": {WATCHES: {"aotcache watch": count}}}))
    assert (found.value, found.reached) == (count, reached)


def test_numbers_are_divided_where_there_are_two() -> None:
    what = "MB of a second generation"
    (found,) = held(data(sizes={"numbers": {what: {UPLOADED: 3.0, NEW: 2.0}}}))
    assert (found.value, found.reached) == (1.5, False)


def test_without_a_contestant_there_is_no_line() -> None:
    assert held(data(pull={"runs": {NEAR_PULL: {AWS: samples(80)}}})) == []


def test_every_row_of_a_table_says_what_it_says_in_one_way() -> None:
    rows = [(bar.what, bar.ours, bar.theirs) for bar in BARS]
    assert len(rows) == len(set(rows))


def test_the_page_names_what_was_found_and_who_was_left_out() -> None:
    page = render(PULLED)
    for text in (
        "40.0x",
        "40x faster",
        "| yes ",
        "2.00",
        "1.00 to 9.00",
        "s5cmd cp (it is missing)",
    ):
        assert text in page


def test_what_was_missed_is_loud() -> None:
    page = render(data(watching={"numbers": {WATCHES: {"aotcache watch": 2400}}}))
    assert "2,400" in page
    assert "**no**" in page


def test_samples_go_through_json() -> None:
    assert render(json.loads(json.dumps(PULLED))) == render(PULLED)
