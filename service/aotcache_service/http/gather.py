"""Questions that come at about the same time are answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from anyio import CapacityLimiter, to_thread

Q = TypeVar("Q")
A = TypeVar("A")


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
        self._limiter = CapacityLimiter(threads)
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, question: Q) -> A:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, future))
        if self._idle:
            self._idle -= 1
            task = loop.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _work(self) -> None:
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, []
                await self._settle(asked)
        finally:
            self._idle += 1

    async def _settle(self, asked: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        questions = [question for question, _ in asked]
        answers: Sequence[A | Exception]
        try:
            answers = await to_thread.run_sync(self._answer, questions, limiter=self._limiter)
        except Exception as error:
            answers = [error] * len(asked)
        for (_, future), answer in zip(asked, answers, strict=True):
            if future.cancelled():
                continue  # whoever asked is gone
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
