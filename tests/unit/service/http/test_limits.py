"""No token holds up the others."""

from __future__ import annotations

import pytest

from aotcache.errors import RateLimitedError
from aotcache_service.http.limits import BURST_SECONDS, RateLimit


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(limit: RateLimit, token: str, tries: int) -> int:
    """How many of them are let through."""
    done = 0
    for _ in range(tries):
        try:
            limit.take(token)
        except RateLimitedError:
            continue
        done += 1
    return done


def test_a_burst_then_the_rate_and_each_token_by_itself() -> None:
    clock = Clock()
    limit = RateLimit(5, clock)
    burst = 5 * BURST_SECONDS
    assert taken(limit, "a", burst + 20) == burst
    assert taken(limit, "b", 10) == 10
    clock.now = 2.0
    assert taken(limit, "a", 100) == 10
    clock.now = 1e6
    assert taken(limit, "a", 1000) == burst
    with pytest.raises(RateLimitedError, match="token a asks more than 5 times a second"):
        limit.take("a")


def test_no_bound_where_none_is_set_and_for_nobody() -> None:
    assert taken(RateLimit(0), "a", 10_000) == 10_000
    assert taken(RateLimit(1), "", 10_000) == 10_000


def test_what_is_remembered_is_bounded() -> None:
    limit = RateLimit(1, Clock())
    for number in range(20_000):
        limit.take(str(number))
    assert len(limit._left) == 10_000
