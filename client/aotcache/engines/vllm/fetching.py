"""What a start asks of its companion, and how long it waits for that."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable

from aotcache import settings
from aotcache.engines.vllm.budget import Budget
from aotcache.engines.vllm.child import Companion
from aotcache.engines.vllm.facts import Facts
from aotcache.engines.vllm.jobs import Answer, Brought, Fetch, Tell
from aotcache.protocol.names import DEFAULT_NAMESPACE

logger = logging.getLogger("vllm.aotcache")


class Fetching:
    """brought: trees by layout and hash. why: of the last answer, and `failed` where that is an
    error. closed: why nobody is asked any more. cut: a pull was under way when the budget ended."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.namespace = os.environ.get(settings.NAMESPACE) or DEFAULT_NAMESPACE
        self.budget = Budget(os.environ.get(settings.DEADLINE))
        self.brought: dict[tuple[str, str], Brought] = {}
        self.why, self.failed = "", False
        self.closed = ""
        self.cut = False
        self._warn = warn
        self._companion = Companion()
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

    def end(self, cache_root: str, *, tell: bool) -> None:
        """Have outcomes told, if there are any, and let go; nobody waits."""
        if self._companion.unanswered:
            self.kill()
        if tell and not self.closed:
            try:
                self._companion.ask(Tell(cache_root=cache_root))
            except OSError as error:
                logger.debug("aotcache: outcomes are left to the next start: %s", error)
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
