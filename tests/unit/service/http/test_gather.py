from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from aotcache_service.http.gather import MOST, Gather


class Doubler:
    """Doubles numbers once it is let go; has no answer to 13 and falls over 0."""

    def __init__(self) -> None:
        self.calls: list[Sequence[int]] = []
        self.let_go = threading.Event()

    def answer(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.calls.append(numbers)
        assert self.let_go.wait(30)
        if 0 in numbers:
            raise ZeroDivisionError
        return [ValueError(number) if number == 13 else 2 * number for number in numbers]


async def _ask_while_busy(doubler: Doubler, numbers: Sequence[int]) -> list[int | BaseException]:
    """The first is on its way when the others are asked."""
    gather = Gather(doubler.answer, threads=1)
    first = asyncio.create_task(gather.ask(1))
    while not doubler.calls:
        await asyncio.sleep(0.001)
    others = [asyncio.create_task(gather.ask(number)) for number in numbers]
    gone = asyncio.create_task(gather.ask(7))
    await asyncio.sleep(0)
    gone.cancel()
    doubler.let_go.set()
    assert await first == 2
    answers = await asyncio.gather(*others, return_exceptions=True)
    assert await gather.ask(21) == 42
    return answers


def test_what_waits_is_answered_in_one_go() -> None:
    doubler = Doubler()
    assert asyncio.run(_ask_while_busy(doubler, range(2, 6))) == [4, 6, 8, 10]
    assert doubler.calls == [[1], [2, 3, 4, 5, 7], [21]]


@pytest.mark.parametrize(("asked", "together"), [(5, [5]), (MOST + 1, [MOST, 1])])
def test_what_comes_at_once_is_asked_together_up_to_a_bound(
    asked: int, together: list[int]
) -> None:
    async def ask(doubler: Doubler) -> list[int]:
        gather = Gather(doubler.answer, threads=1)
        return await asyncio.gather(*(gather.ask(number) for number in range(100, 100 + asked)))

    doubler = Doubler()
    doubler.let_go.set()
    assert asyncio.run(ask(doubler)) == [2 * number for number in range(100, 100 + asked)]
    assert [len(numbers) for numbers in doubler.calls] == together


def test_one_that_has_no_answer_does_not_spoil_the_others() -> None:
    two, thirteen, three = asyncio.run(_ask_while_busy(Doubler(), (2, 13, 3)))
    assert (two, three) == (4, 6)
    assert isinstance(thirteen, ValueError)


def test_what_is_raised_all_are_told() -> None:
    answers = asyncio.run(_ask_while_busy(Doubler(), (2, 0)))
    assert [type(one) for one in answers] == [ZeroDivisionError] * 2


def test_two_threads_answer_while_one_hangs() -> None:
    hanging = threading.Event()

    def answer(numbers: Sequence[int]) -> list[int | Exception]:
        if 0 in numbers:
            assert hanging.wait(30)
        return list(numbers)

    async def ask() -> None:
        gather = Gather(answer, threads=2)
        stuck = asyncio.create_task(gather.ask(0))
        await asyncio.sleep(0.01)
        assert await gather.ask(1) == 1
        assert not stuck.done()
        hanging.set()
        assert await stuck == 0

    try:
        asyncio.run(ask())
    finally:
        hanging.set()


@pytest.mark.parametrize("threads", [1, 2])
def test_many_at_once_each_get_their_own(threads: int) -> None:
    async def ask() -> list[int]:
        doubler = Doubler()
        doubler.let_go.set()
        gather = Gather(doubler.answer, threads)
        return await asyncio.gather(*(gather.ask(number) for number in range(100, 400)))

    assert asyncio.run(ask()) == [2 * number for number in range(100, 400)]
