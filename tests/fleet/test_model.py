"""The model makes the calls that real starts make, and the same ones each time."""

from __future__ import annotations

import pytest

from fleet.model import KINDS, Region, happen, peak, requests
from fleet.plan import COMPILED, HIT, WAITED, Job
from fleet.scenarios import ONE, SCENARIOS, Size, jobs_of

MS = dict.fromkeys(KINDS, 1.0)


def region(jobs: tuple[Job, ...], **more: object) -> Region:
    about = {
        "replicas": 2,
        "service_ms": MS,
        "write_seconds": 0.001,
        "compile_seconds": 4.0,
        "wait": 60.0,
        "pull_bytes": 100,
    }
    return Region(jobs=jobs, **{**about, **more})  # type: ignore[arg-type]


def jobs(*at: float) -> tuple[Job, ...]:
    return tuple(Job(node=node, at=when, name="a", model="m") for node, when in enumerate(at))


def test_one_compiles_others_wait_and_who_comes_later_hits() -> None:
    found = happen(region(jobs(0.0, 1.0, 2.0, 30.0)))
    assert found.ended == {COMPILED: 1, WAITED: 2, HIT: 1}
    assert requests(found) == {
        "POST /v1/recipes/lookup": 4,
        "POST /v1/lookup": 1 + 2 * 2 + 1,
        "GET /v1/objects/{key:path}": 0,
        "POST /v1/presign": 1,
        "POST /v1/outcomes": 3,
        "POST /v1/explain": 1,
        "POST /v1/publish": 1,
        "POST /v1/publish/{publish_id}/commit": 1,
        # The holder: at first, and when it is over.
        "POST /v1/leases": 2 * 2 + 2,
    }
    assert sum(found.gets.values()) == 3
    assert sum(found.bytes.values()) == 300


def test_nobody_waits_where_that_is_off() -> None:
    found = happen(region(jobs(0.0, 1.0, 2.0), wait=0.0))
    assert found.ended == {COMPILED: 3}
    assert found.calls["held"] == found.calls["granted"] == 0


def test_who_has_waited_long_enough_compiles() -> None:
    found = happen(region(jobs(0.0, 1.0), compile_seconds=100.0, wait=30.0))
    assert found.ended == {COMPILED: 2}
    assert max(found.warm) == pytest.approx(30 + 10 + 100, abs=1 + 10)


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_is_the_same_each_time(name: str) -> None:
    drawn = jobs_of(name, Size(nodes=200, seconds=60.0, compile_seconds=20.0, wait=120.0))
    first, second = (happen(region(drawn, compile_seconds=20.0)) for _ in range(2))
    assert first == second
    assert sum(first.ended.values()) == 200


def test_too_few_replicas_make_everybody_late() -> None:
    drawn = jobs_of(ONE, Size(nodes=2000, seconds=60.0, compile_seconds=20.0, wait=120.0))
    slow = dict.fromkeys(MS, 20.0)
    few, many = (
        happen(region(drawn, replicas=replicas, service_ms=slow, wait=600.0))
        for replicas in (1, 20)
    )
    assert max(few.warm) > 5 * max(many.warm)
    assert few.ended[COMPILED] == many.ended[COMPILED] == 1


def test_peaks_are_of_the_worst_seconds() -> None:
    found = happen(region(jobs(*[0.0] * 10, *[30.0] * 40)))
    assert peak(found.gets) == 40
    assert peak(found.gets, over=4) == 10
