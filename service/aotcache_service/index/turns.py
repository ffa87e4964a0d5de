"""Turns of threads, in the order in which they come."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """As a lock, but whoever waits longest is next. With a lock a thread that comes back at once is
    served before those that have been waiting, and some of these never are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[threading.Lock] = deque()  # the first one's turn it is

    @contextmanager
    def turn(self, seconds: float) -> Iterator[bool]:
        """Wait for it so long. False: it did not come."""
        mine = threading.Lock()
        mine.acquire()
        with self._lock:
            self._queue.append(mine)
            if self._queue[0] is mine:
                mine.release()
        try:
            yield mine.acquire(timeout=seconds)
        finally:
            with self._lock:
                was_first = self._queue[0] is mine
                self._queue.remove(mine)
                if was_first and self._queue:
                    self._queue[0].release()
