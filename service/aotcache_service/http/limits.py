"""A bound on what one token asks in a time, so that one cannot hold up all others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from aotcache.errors import RateLimitedError

BURST_SECONDS = 10
# Tokens that are remembered; one that is forgotten begins with its whole burst again.
_MOST = 10_000


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
            self._left[token] = (max(left - 1, 0.0), now)
            if len(self._left) > _MOST:
                del self._left[next(iter(self._left))]
        if left < 1:
            raise RateLimitedError(
                f"token {token} asks more than {self._rate} times a second: ask less often, or "
                "give parts of the fleet tokens of their own"
            )
