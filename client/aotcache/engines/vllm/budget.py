"""A budget: how long an engine process waits at most, in all of its start."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aotcache.settings import DEFAULT_DEADLINE


class Budget:
    """total and waited in seconds. A setting that is not a number counts as the default: it must
    not keep an engine from starting (`aotcache doctor` names it)."""

    def __init__(self, setting: str | None, default: float = DEFAULT_DEADLINE) -> None:
        try:
            total = float(setting or default)
        except ValueError:
            total = default
        self.total = total if math.isfinite(total) else default
        self.waited = 0.0

    @property
    def left(self) -> float:
        return max(0.0, self.total - self.waited)

    @contextmanager
    def spend(self) -> Iterator[float]:
        """Count the time in here. Yields how much there is."""
        begin = time.monotonic()
        try:
            yield self.left
        finally:
            self.waited += time.monotonic() - begin
