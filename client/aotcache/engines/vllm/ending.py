"""Who is asked to end has not crashed, though it may be killed before it does.

vLLM 0.32's engine only notes a SIGTERM while it starts, and is killed five seconds later; where no
worker has a process of its own, that is the process that loads.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


class Ending:
    """Has `asked` called at a signal to end, and then whoever was to be called before."""

    def __init__(self, asked: Callable[[], None]) -> None:
        self._asked = asked
        self._pid = 0
        self._watching = False
        self._before: dict[int, Any] = {}

    def watch(self) -> None:
        """From now on, where this is the thread that may set it up."""
        if self._watching or threading.current_thread() is not threading.main_thread():
            return
        self._watching, self._pid = True, os.getpid()
        for number in _NUMBERS:
            before = signal.getsignal(number)
            if before != self._handle and (callable(before) or before is signal.SIG_DFL):
                self._before[number] = before
                signal.signal(number, self._handle)

    def forget(self) -> None:
        """No longer. What another has set up since then stays, and may call on to this one."""
        if not self._watching or threading.current_thread() is not threading.main_thread():
            return
        self._watching = False
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._pid:  # not in a child that was forked meanwhile
            self._asked()
        before = self._before.get(number, signal.SIG_DFL)
        if callable(before):
            before(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
