"""Bounds on what one token asks in a time and uploads at once: none holds up all others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aotcache.errors import RateLimitedError

BURST_SECONDS = 10
# Tokens that are remembered; one that is forgotten begins with its whole burst again.
_MOST = 10_000


class Uploads:
    """At most `most` uploads are held in memory at the same time, and of one token half of them;
    the others wait with their bytes unsent. An empty token is nobody's, and has no bound."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def place(self, token: str) -> AsyncIterator[None]:
        share = max(1, self._most // 2) if token else self._most
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._of.total() < self._most and self._of[token] < share
            )
            self._of[token] += 1
        try:
            yield
        finally:
            async with self._changed:
                self._of[token] -= 1
                if not self._of[token]:
                    del self._of[token]
                self._changed.notify_all()


class RateLimit:
    """`rate` requests a second for each token, and at once as many as in BURST_SECONDS; 0: any
    number. Each process counts for itself."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}  # requests, and when that was so

    def take(self, token: str) -> None:
        """Raises RateLimitedError. An empty token is nobody's: where there are none, no bound."""
        if not self._rate or not token:
            return
        most = float(self._rate * BURST_SECONDS)
        with self._lock:
            now = self._clock()
            left, since = self._left.pop(token, (most, now))
            left = min(most, left + (now - since) * self._rate)
            # What is refused takes nothing: who asks too often still gets its rate.
            self._left[token] = (left - 1 if left >= 1 else left, now)
            if len(self._left) > _MOST:
                del self._left[next(iter(self._left))]
        if left < 1:
            raise RateLimitedError(
                f"token {token} asks more than {self._rate} times a second: ask less often, or "
                "give parts of the fleet tokens of their own"
            )
