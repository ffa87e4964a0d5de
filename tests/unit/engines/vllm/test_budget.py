"""The budget of a start: time that was waited, whatever the deadline says."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from aotcache.engines.vllm.budget import Budget
from aotcache.settings import DEFAULT_DEADLINE


@pytest.mark.parametrize("said", [None, "", "soon", "nan", "inf", "-inf", "30s"])
def test_what_is_no_number_is_the_default(said: str | None) -> None:
    budget = Budget(said)
    assert (budget.total, budget.left) == (DEFAULT_DEADLINE, DEFAULT_DEADLINE)


@pytest.mark.parametrize(("said", "left"), [("7.5", 7.5), (" 7 ", 7.0), ("0", 0.0), ("-3", 0.0)])
def test_what_is_a_number_counts(said: str, left: float) -> None:
    assert Budget(said).left == left


def test_only_what_is_waited_is_spent() -> None:
    budget = Budget("100")
    time.sleep(0.01)
    assert budget.waited == 0
    with budget.spend() as left:
        assert left == 100
        time.sleep(0.02)
    first = budget.waited
    assert first >= 0.02
    assert budget.left == 100 - first
    with budget.spend() as left:
        assert left == 100 - first


def test_waiting_that_fails_is_spent_too() -> None:
    budget = Budget("0.01")
    with suppress(OSError), budget.spend():
        time.sleep(0.02)
        raise OSError
    assert budget.left == 0
    with budget.spend() as left:
        assert left == 0
