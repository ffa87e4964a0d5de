"""Ahead: a question that is answered while who asked does something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Asks in a thread, which holds up nobody's end."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._answer: Future[T] = Future()
        self._thread = threading.Thread(target=self._run, name="aotcache-ahead", daemon=True)
        self._thread.start()

    def answer(self) -> T:
        """Waits for it. Raises what asking raised."""
        self._thread.join()
        return self._answer.result()

    def _run(self) -> None:
        try:
            self._answer.set_result(self._ask())
        except BaseException as error:
            self._answer.set_exception(error)
