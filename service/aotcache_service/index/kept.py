"""What reads many rows to be counted: counted when somebody asks, and then not for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

log = logging.getLogger(__name__)

Namespaces: TypeAlias = "frozenset[str] | None"  # None: all
V = TypeVar("V")

_KEPT = 100  # of how many sets of namespaces
_SECONDS = 60.0  # that a count is good for


class Kept(Generic[V]):
    def __init__(self, count: Callable[[Namespaces], V]) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._changes = 0
        self._found: dict[Namespaces, tuple[float, V]] = {}  # until when it is good, and what it is

    def of(self, namespaces: Namespaces, *, wait: bool = True) -> V:
        """Who asks meanwhile waits for the same count; with `wait` false an older one does, which
        is then counted anew for who asks next."""
        kept = self._found.get(namespaces)
        if kept is not None and time.monotonic() <= kept[0]:
            return kept[1]
        if kept is None or wait:
            return self._counted(namespaces)
        if not self._lock.locked():
            threading.Thread(target=self._again, args=(namespaces,), daemon=True).start()
        return kept[1]

    def forget(self) -> None:
        """What was counted is not so any more: it is due."""
        self._changes += 1
        self._found = {namespaces: (0.0, found) for namespaces, (_, found) in self._found.items()}

    def _again(self, namespaces: Namespaces) -> None:
        try:
            self._counted(namespaces)
        except Exception as error:
            log.debug("what the index holds is counted later: %s", error)

    def _counted(self, namespaces: Namespaces) -> V:
        with self._lock:
            kept = self._found.get(namespaces)
            if kept is not None and time.monotonic() <= kept[0]:
                return kept[1]
            changes = self._changes
            found = self._count(namespaces)
            # What changed meanwhile may not be in it.
            until = time.monotonic() + _SECONDS if changes == self._changes else 0.0
            others = dict(list(self._found.items())[-_KEPT:])
            self._found = {**others, namespaces: (until, found)}
            return found
