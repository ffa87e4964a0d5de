"""Questions that come at about the same time are answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

# Answered in one go: bounds what their answers take in memory, and how long the first waits for
# the last.
MOST = 256


class Gather(Generic[Q, A]):
    """Answers all questions that wait in one go, in a thread: the way there and back and a
    transaction cost more than an answer does.

    answer: is called in at most `threads` threads; gives for each question its answer, or the
    exception that is raised where it was asked. What it raises itself is raised everywhere.
    """

    def __init__(
        self, answer: Callable[[Sequence[Q]], Sequence[A | Exception]], threads: int
    ) -> None:
        self._answer = answer
        self._idle = threads
        self._threads = ThreadPoolExecutor(threads, "gather")
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []

    def close(self) -> None:
        """Nothing is asked any more."""
        self._threads.shutdown(wait=False)

    async def ask(self, question: Q) -> A:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, future))
        if len(self._waiting) == 1 and self._idle:
            # Not at once: other requests that have arrived are read first.
            loop.call_soon(self._begin)
        return await future

    def _begin(self) -> None:
        while self._waiting and self._idle:
            asked, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            self._idle -= 1
            questions = [question for question, _ in asked]
            loop = asyncio.get_running_loop()
            done = loop.run_in_executor(self._threads, self._answer, questions)
            done.add_done_callback(partial(self._settle, asked))

    def _settle(
        self,
        asked: Sequence[tuple[Q, asyncio.Future[A]]],
        done: asyncio.Future[Sequence[A | Exception]],
    ) -> None:
        self._idle += 1
        self._begin()
        error = done.exception()
        answers = [error] * len(asked) if error else done.result()
        for (_, future), answer in zip(asked, answers, strict=True):
            if future.cancelled():
                continue  # whoever asked is gone
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
