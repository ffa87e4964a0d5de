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
_PAUSE = 0.5
_GONE = 15.0  # seconds for which nobody answers who waits


@dataclass(slots=True)
class _Lease:
    """compiled: until when it is kept for whoever publishes, and the file that shows that there is
    something to publish."""

    asked: AskLease
    seconds: int
    until: float | None = None
    shown_by: str = ""


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
                time.sleep(_PAUSE)
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
                time.sleep(_PAUSE)  # the service ends, and has nobody wait

    def compiled(self, lookup: Lookup, part: str, shown_by: str) -> None:
        """It is: keep it until it is published, as long as that may take. shown_by: a file that is
        there then; if it is not when `finish` is called, there is nothing to wait for."""
        with self._lock:
            held = self._held.get((lookup.hash, part))
            if held is not None:
                held.until, held.shown_by = time.monotonic() + LINGER, shown_by

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
            self._held[asked.lookup.hash, asked.part] = _Lease(asked, seconds)
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
            woken = self._wake.wait(min(held.seconds for held in kept.values()) / 3)
            self._wake.clear()
            if not woken:
                for name, held in kept.items():
                    self._renew(name, held)

    def _renew(self, name: tuple[str, str], held: _Lease) -> None:
        with self._telling:
            with self._lock:
                if self._held.get(name) is not held:
                    return
            try:
                found = self._index.lease(held.asked)
            except AotcacheError as error:
                logger.debug("a lease may end: %s", error)
                return
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
