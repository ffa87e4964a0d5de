"""No token holds up the others."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from aotcache.errors import RateLimitedError
from aotcache_service.http.limits import BURST_SECONDS, RateLimit, Uploads


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


def test_who_always_asks_too_often_gets_its_rate() -> None:
    clock = Clock()
    limit = RateLimit(10, clock)
    taken(limit, "a", 200)
    done = 0
    for _ in range(600):  # thirty a second
        clock.now += 1 / 30
        done += taken(limit, "a", 1)
    assert 190 <= done <= 210


def test_no_bound_where_none_is_set_and_for_nobody() -> None:
    assert taken(RateLimit(0), "a", 10_000) == 10_000
    assert taken(RateLimit(1), "", 10_000) == 10_000


def test_what_is_remembered_is_bounded() -> None:
    limit = RateLimit(1, Clock())
    for number in range(20_000):
        limit.take(str(number))
    assert len(limit._left) == 10_000


async def _has_a_place(uploads: Uploads, token: str, held: AsyncExitStack) -> bool:
    place = asyncio.ensure_future(held.enter_async_context(uploads.place(token)))
    await asyncio.sleep(0.02)
    if not place.done():
        place.cancel()
    return place.done() and not place.cancelled()


def test_one_token_has_half_of_the_uploads() -> None:
    async def main() -> None:
        uploads = Uploads(4)
        async with AsyncExitStack() as held:
            assert [await _has_a_place(uploads, "a", held) for _ in range(3)] == [True, True, False]
            assert [await _has_a_place(uploads, "b", held) for _ in range(3)] == [True, True, False]
            assert not await _has_a_place(uploads, "", held)
        async with AsyncExitStack() as held:
            # Nobody's: where there are no tokens.
            assert [await _has_a_place(uploads, "", held) for _ in range(5)] == [True] * 4 + [False]

    asyncio.run(main())


def test_who_waits_comes_when_somebody_ends() -> None:
    async def main() -> None:
        uploads = Uploads(1)
        order = []

        async def upload(name: str) -> None:
            async with uploads.place("a"):
                order.append(name)
                await asyncio.sleep(0.01)

        await asyncio.gather(*(upload(name) for name in "xyz"))
        assert order == ["x", "y", "z"]

    asyncio.run(main())
