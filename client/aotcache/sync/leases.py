"""Leases on parts that are not stored: one node compiles, others wait for what it publishes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from aotcache.core.patience import why_not
from aotcache.errors import AotcacheError, UnavailableError, VersionError
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.leases import (
    FREE,
    GRANTED,
    HELD,
    AskLease,
    EndLease,
    Lease,
    new_holder,
)
from aotcache.protocol.v1.lookup import Lookup
from aotcache.remote.index import Index
from aotcache.settings import LINGER

logger = logging.getLogger(__name__)

_POLL = 20.0  # seconds of one question, less than a connection may be silent
_PAUSE = 0.5  # at the least, and twice as long at the most: not all at once
_GONE = 60.0  # seconds for which nobody answers who waits; a database fails over in fewer
_LOOK = 1.0  # between looks whether the publish of what is compiled has failed
_AGAIN = 2.0  # until a lease is renewed again, where that failed


@dataclass(slots=True)
class _Lease:
    """renew: when. until: when it is compiled, how long it is kept for whoever publishes; shown_by:
    the file that shows that there is something to publish, failed: whether that failed."""

    asked: AskLease
    seconds: int
    renew: float
    until: float | None = None
    shown_by: str = ""
    failed: Callable[[], bool] = lambda: False


class Leases:
    """Those of this process. A thread tells the service that they are still wanted; it ends with
    the last of them."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._held: dict[tuple[str, str], _Lease] = {}
        self._lock = threading.Lock()
        # Held while the service is told: one that is let go is not asked for again after its end.
        self._telling = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def turn(
        self,
        lookup: Lookup,
        part: str,
        *,
        budget: float,
        hold: bool,
        recipe: Recipe | None = None,
        node: str = "",
        waiting: Callable[[Lease], None] = lambda _held: None,
    ) -> tuple[str, str]:
        """Wait for who compiles this part, if somebody does, at most `budget` seconds. STORED: it
        can be pulled now; GRANTED: it is to be compiled here, and held until `compiled` or
        `let_go`, where `hold`; FREE: the same, and nobody waits for it. With FREE comes why.
        waiting: told of the other, once. Raises as the index does."""
        asked = AskLease(
            lookup=lookup,
            part=part,
            holder=new_holder() if hold else "",
            recipe=recipe,
            node=node,
        )
        begin = time.monotonic()
        told, answered = False, begin
        while True:
            waited = time.monotonic() - begin
            poll = max(0.0, min(_POLL, budget - waited)) if told else 0.0
            sent = time.monotonic()
            try:
                found = self._index.lease(replace(asked, wait=poll))
                answered = time.monotonic()
            except UnavailableError:
                # A replica that ends; who has begun to wait finds another, or the same again.
                if not told or sent - answered > _GONE:
                    raise
                _pause()
                continue
            except VersionError as error:
                return FREE, f"nobody is waited for: {error}"
            if found.state == GRANTED:
                self._hold(asked, found.seconds)
            if found.state != HELD:
                return found.state, ""
            waited = time.monotonic() - begin
            if why := why_not(found, waited, budget - waited):
                return FREE, why
            if not told:
                waiting(found)
                told = True
            elif answered - sent < min(poll, _PAUSE):
                _pause()  # the service ends, and has nobody wait

    def compiled(
        self,
        lookup: Lookup,
        part: str,
        shown_by: str,
        failed: Callable[[], bool] = lambda: False,
    ) -> None:
        """It is: keep it until it is published, as long as that may take, or has `failed`, which is
        asked now and then. shown_by: a file that is there then; if it is not when `finish` is
        called, there is nothing to wait for."""
        with self._lock:
            held = self._held.get((lookup.hash, part))
            if held is not None:
                held.until, held.shown_by = time.monotonic() + LINGER, shown_by
                held.failed = failed
        self._wake.set()

    def let_go(self, lookup: Lookup, part: str) -> None:
        """It is not compiled here: somebody else may, at once."""
        with self._lock:
            held = self._held.pop((lookup.hash, part), None)
        if held is not None:
            self._end(held)

    def finish(self) -> None:
        """Let go of what was not compiled, and stay until the rest is published."""
        with self._lock:
            over = [
                name
                for name, held in self._held.items()
                if held.until is None or not os.path.exists(held.shown_by)
            ]
            ended = [self._held.pop(name) for name in over]
            thread = self._thread
        for held in ended:
            self._end(held)
        self._wake.set()
        if thread is not None:
            thread.join()

    def _hold(self, asked: AskLease, seconds: int) -> None:
        with self._lock:
            due = time.monotonic() + seconds / 3
            self._held[asked.lookup.hash, asked.part] = _Lease(asked, seconds, due)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._keep, name="aotcache-leases", daemon=True
                )
                self._thread.start()

    def _keep(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                for name, held in list(self._held.items()):
                    if held.until is not None and held.until < now:
                        del self._held[name]  # it ends by itself
                kept = dict(self._held)
                if not kept:
                    self._thread = None
                    return
            due = min(held.renew for held in kept.values()) - now
            if any(held.until is not None for held in kept.values()):
                due = min(due, _LOOK)
            self._wake.wait(max(0.0, due))
            self._wake.clear()
            for held in kept.values():
                if held.until is not None and held.failed():
                    self.let_go(held.asked.lookup, held.asked.part)
                elif held.renew <= time.monotonic():
                    self._renew(held)

    def _renew(self, held: _Lease) -> None:
        name = held.asked.lookup.hash, held.asked.part
        with self._telling:
            with self._lock:
                if self._held.get(name) is not held:
                    return
            try:
                found = self._index.lease(held.asked)
            except AotcacheError as error:
                logger.debug("a lease may end: %s", error)
                held.renew = time.monotonic() + min(_AGAIN, held.seconds / 3)
                return
            held.renew = time.monotonic() + held.seconds / 3
            with self._lock:
                if found.state != GRANTED and self._held.get(name) is held:
                    del self._held[name]

    def _end(self, held: _Lease) -> None:
        asked = held.asked
        with self._telling:
            try:
                self._index.end_lease(
                    EndLease(lookup=asked.lookup, part=asked.part, holder=asked.holder)
                )
            except AotcacheError as error:
                logger.debug("a lease ends by itself: %s", error)


def _pause() -> None:
    time.sleep(_PAUSE * (1 + os.urandom(1)[0] / 255))
