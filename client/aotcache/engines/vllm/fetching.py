"""What a start asks of its companion, and how long it waits for that."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable

from aotcache import settings
from aotcache.engines.vllm.budget import Budget
from aotcache.engines.vllm.child import PATIENCE, Companion
from aotcache.engines.vllm.facts import Facts
from aotcache.engines.vllm.jobs import Answer, Brought, Compiled, Fetch, Tell, Wait
from aotcache.protocol.names import DEFAULT_NAMESPACE
from aotcache.protocol.v1.leases import GRANTED, HELD, STORED
from aotcache.settings import LINGER

logger = logging.getLogger("vllm.aotcache")

_LATE = 5.0  # seconds that the last answer may come after a wait
_LEAST = 2.0  # seconds for the pull after it


class Fetching:
    """brought: trees by layout and hash. why: of the last answer, and `failed` where that is an
    error. closed: why nobody is asked any more. cut: a pull was under way when the budget ended.
    waiting: the budget for other nodes' compiles; waited_for: one of them was waited for."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.namespace = os.environ.get(settings.NAMESPACE) or DEFAULT_NAMESPACE
        self.budget = Budget(os.environ.get(settings.DEADLINE))
        self.waiting = Budget(os.environ.get(settings.WAIT), settings.DEFAULT_WAIT)
        self.waited_for = False
        self.brought: dict[tuple[str, str], Brought] = {}
        self.why, self.failed = "", False
        self.closed = ""
        self.cut = False
        self._warn = warn
        self._companion = Companion()
        self._leased: set[str] = set()  # hashes that others wait for
        self._what = "the cache"  # that was asked for last

    def ask(self, known: Facts, hash: str = "") -> None:
        """Have a tree pulled, or those of this start's recipe. Waits for nothing."""
        if self.closed:
            return
        self._what = f"tree {hash[:12]}" if hash else f"the trees of {known.recipe.model}"
        if self.budget.left <= 0:
            self.why, self.failed = f"no time left to pull it ({settings.DEADLINE})", True
            return
        job = Fetch(
            cache_root=known.cache_root,
            namespace=self.namespace,
            part=known.part,
            platform=known.detected.platform,
            recipe=known.recipe,
            hash=hash,
            any_recipe=settings.is_on(os.environ.get(settings.ANY_RECIPE)),
        )
        try:
            self._companion.ask(job)
        except OSError as error:
            self._close(f"{self._what}: the companion process cannot be started: {error}")

    def collect(self, at_most: float = math.inf) -> None:
        """Wait for what was asked, as long as the budget lasts, or at most so many seconds."""
        while self._companion.unanswered and not self.closed:
            with self.budget.spend() as left:
                answer = self._companion.answer(min(left, at_most))
            if answer is not None:
                self._take(answer)
            elif left <= at_most:
                self.cut = True
                self._close(
                    f"{self._what} not pulled within {self.budget.total:.0f} s: raise "
                    f"{settings.DEADLINE}, or see why service or storage are slow"
                )
            else:
                return

    def turn(self, known: Facts, hash: str) -> bool:
        """After a miss. True: another node was waited for, and the tree is stored now. False: it is
        to be compiled, and where this node publishes others wait for that until `compiled`."""
        if self.closed or self.failed or self.waiting.left <= 0:
            return False
        if self.budget.left < _LEAST:
            late = f"nobody is waited for: no time left to pull it then ({settings.DEADLINE})"
            self.why = f"{self.why}; {late}"
            return False
        job = Wait(
            cache_root=known.cache_root,
            namespace=self.namespace,
            part=known.part,
            platform=known.detected.platform,
            recipe=known.recipe,
            hash=hash,
            seconds=self.waiting.left,
            hold=settings.is_on(os.environ.get(settings.PUBLISH)),
        )
        try:
            self._companion.ask(job)
        except OSError as error:
            self._close(f"{self._what}: the companion process has ended: {error}")
            return False
        answer = self._turn()
        if answer is None:
            self._close(f"{self._what}: whether another node compiles it was not answered")
            return False
        if answer.error:
            self._close(f"{self._what}: not known whether another node compiles it: {answer.error}")
        elif answer.why:
            self.why = f"{self.why}; {answer.why}"
        if answer.turn == GRANTED:
            self._leased.add(hash)
        return answer.turn == STORED

    def _turn(self) -> Answer | None:
        while True:
            with self.waiting.spend() as left:
                answer = self._companion.answer(left + _LATE)
            if answer is None or answer.turn != HELD:
                return answer
            self.waited_for = True
            logger.info(
                "aotcache: %s: %s: waiting for that, at most %.0f s (%s)",
                self._what,
                answer.why,
                left,
                settings.WAIT,
            )

    def compiled(self, hash: str, *, published: bool) -> None:
        """Let others wait until it is published, or no more where nothing publishes it."""
        if hash not in self._leased:
            return
        try:
            self._companion.say(Compiled(hash=hash, published=published))
        except OSError as error:
            logger.debug("aotcache: nobody waits for %s any more: %s", hash[:12], error)

    def end(self, cache_root: str, *, tell: bool) -> None:
        """Have outcomes told, if there are any, and let go; nobody waits."""
        if self._companion.unanswered:
            self.kill()
        if tell and not self.closed:
            try:
                self._companion.ask(Tell(cache_root=cache_root))
            except OSError as error:
                logger.debug("aotcache: outcomes are left to the next start: %s", error)
        self._companion.leave(LINGER + PATIENCE if self._leased else PATIENCE)

    def leave(self) -> None:
        """The engine ends. What it was about to compile is somebody else's at once."""
        if self._companion.unanswered:
            self.kill()
        else:
            self._companion.leave()

    def kill(self) -> None:
        self._companion.kill()

    def _take(self, answer: Answer) -> None:
        for one in answer.brought:
            self.brought[one.layout, one.hash] = one
        self.why, self.failed = answer.error or answer.why, bool(answer.error)
        if answer.fatal:
            self._close(f"{self._what}: {answer.error}")
        elif answer.error:
            self._warn(f"{self._what} not pulled: {answer.error}")

    def _close(self, why: str) -> None:
        self.closed = why
        self.kill()
        self._warn(
            f"not used any more in this start, vLLM compiles: {why} (`aotcache doctor` says more)"
        )
