from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from aotcache_service.index.turns import Turns


def test_who_waits_longest_is_next() -> None:
    turns, order = Turns(), []
    with ThreadPoolExecutor(20) as pool, turns.turn(1):
        for number in range(20):
            pool.submit(_take, turns, order, number)
            while len(turns._queue) < number + 2:
                time.sleep(0.001)
    assert order == list(range(20))


def test_who_gave_up_is_passed_over() -> None:
    turns, order = Turns(), []
    with ThreadPoolExecutor(3) as pool:
        with turns.turn(1):
            with turns.turn(0.01) as came:
                assert not came
            waiting = pool.submit(_take, turns, order, 1)
        waiting.result(10)
    assert order == [1]
    with turns.turn(0) as came:
        assert came


def test_one_at_a_time() -> None:
    turns, inside, most = Turns(), threading.Semaphore(1), []

    def work() -> None:
        for _ in range(200):
            with turns.turn(60) as came:
                assert came
                most.append(inside.acquire(blocking=False))
                inside.release()

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work) for _ in range(8)]:
            done.result(60)
    assert all(most)


def _take(turns: Turns, order: list[int], number: int) -> None:
    with turns.turn(60) as came:
        assert came
        order.append(number)
