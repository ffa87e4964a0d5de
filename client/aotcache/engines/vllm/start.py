"""One start of an engine process: what is pulled for it, what vLLM did with it, what is said.

The hooks call in here, in this order for each module: `built`, `before_load`, `after_load`, then
`compiling` where it is not loaded; at the end of all `ended`. Nothing raises into the engine: the
first error of ours ends all use of the cache in this process, with one warning.
"""

from __future__ import annotations

import functools
import logging
import math
import multiprocessing.util
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from aotcache import settings
from aotcache.engines.vllm import disk, facts
from aotcache.engines.vllm.budget import Budget
from aotcache.engines.vllm.child import Companion
from aotcache.engines.vllm.ending import Ending
from aotcache.engines.vllm.failures import lacks_memory
from aotcache.engines.vllm.jobs import Answer, Brought, Fetch, Tell
from aotcache.engines.vllm.modules import Module, end_line
from aotcache.engines.vllm.publisher import Publisher
from aotcache.engines.vllm.root import usable_root
from aotcache.errors import LocalError
from aotcache.protocol.names import DEFAULT_NAMESPACE
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import TreeUsed

# A child of vLLM's logger: its handlers and its format, with the process in front.
logger = logging.getLogger("vllm.aotcache")

# Seconds between the last file of a pull and its answer.
_GRACE = 0.2

F = TypeVar("F", bound=Callable[..., Any])


def _quiet(method: F) -> F:
    """No exception of ours gets into the engine: it ends all use of the cache in this process."""

    @functools.wraps(method)
    def guarded(self: Start, *args: Any, **kwargs: Any) -> Any:
        if self.over:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self._give_up(error)
            return None

    return guarded  # type: ignore[return-value]


class Start:
    _one: ClassVar[Start | None] = None

    def __init__(self) -> None:
        self.over = False
        self._facts: facts.Facts | None = None
        self._budget = Budget(os.environ.get(settings.DEADLINE))
        self._companion = Companion()
        self._publisher: Publisher | None = None
        self._modules: list[Module] = []
        self._current: Module | None = None
        self._loading = False
        self._marks = disk.Marks()
        self._ending = Ending(self._marks.end)
        self._brought: dict[tuple[str, str], Brought] = {}
        self._why, self._failed = "", False  # of the last answer
        self._cut = False  # a pull was under way when the budget ended
        self._closed = ""  # why the service is not asked any more
        self._changed = ""  # what of vLLM's inside was not found
        self._warned = False

    @classmethod
    def of_this_process(cls) -> Start:
        if cls._one is None:
            cls._one = cls()
        return cls._one

    def changed(self, what: str) -> None:
        """vLLM's inside is not what the hooks know: trees come by recipe, as a module is built."""
        self._changed = what
        self._warn(f"{what} is not in this vLLM as aotcache knows it: trees come by recipe only")

    @_quiet
    def built(self, model: Any) -> bool:
        """A module is built, its weights are not loaded yet. True: it is the first one."""
        from vllm import envs

        if getattr(envs, "VLLM_DISABLE_COMPILE_CACHE", False):
            return False
        self._modules.append(Module(model, getattr(model, "_compile_tag", "")))
        if self._facts is not None:
            return False
        root = os.path.abspath(os.path.expanduser(envs.VLLM_CACHE_ROOT))
        usable = usable_root(root)
        if usable != root:
            os.environ[settings.CACHE_ROOT] = usable
            self._warn(f"{root} cannot be written, and vLLM would not start: trees lie in {usable}")
        self._facts = facts.facts_of(model.vllm_config, usable)
        # Orderly ends, also of children that never run atexit's: no crash.
        multiprocessing.util.Finalize(None, self._left, exitpriority=50)
        self._publisher = Publisher(self._facts.cache_root)
        with self._budget.spend():  # a pull or a publish may be at the tree
            crashes = disk.take_crashes(self._facts.cache_root)
        for note in crashes:
            self._warn(
                f"{note.layout}/{note.hash[:12]} {note.part} (generation {note.generation}) made "
                "the engine crash at its last start: it is not used here again"
            )
        if not disk.has_all(self._facts):
            # vLLM 0.32 settles one factor of the hash, the layout of the KV cache, only after the
            # weights are loaded: until then the recipe says what is needed.
            self._ask(recipe=self._facts.recipe)
            if self._changed:
                self._collect()  # nothing tells later when it is needed
        return True

    @_quiet
    def before_load(self, model: Any, path: str) -> None:
        """vLLM is about to look for `path`: have it there, if it can be had in time."""
        module = next((m for m in self._modules if m.model is model), None)
        self._current = module
        if module is None or self._facts is None:
            return
        module.path = path
        # Where it is there, what is still fetched is not for it: only hear what has come.
        self._collect(_GRACE if disk.is_there(path) else math.inf)
        if not disk.is_there(path):
            self._ask(hash=module.hash)
            self._collect()
            module.why = self._closed or self._why
            module.failed = bool(self._closed) or self._failed
        module.note = disk.note_of(module.tree_path, self._facts.part)
        self._ending.watch()
        self._marks.set(self._facts, module)
        self._loading = True

    @_quiet
    def after_load(self, model: Any, loaded: bool, reason: str, prepared: float) -> None:
        """reason: vLLM's, for refusing it. prepared: seconds of ours between the two."""
        self._loading = False
        module = self._current
        if module is None or module.model is not model or self._facts is None:
            return
        module.loaded = loaded
        module.load_seconds += prepared
        if loaded:
            return
        self._marks.lift(module)
        if not reason and os.path.exists(module.path):
            reason = "its log level hides why"
        module.reason = reason
        if module.note is not None and reason:
            disk.keep(module.tree_path, module.note, "load_failed", reason)

    @contextmanager
    def compiling(self, vllm_config: Any, tag: str) -> Iterator[None]:
        """Around a load or a compile, as vLLM times them."""
        self._before_compile()
        begin = time.perf_counter()
        yield
        self._timed(vllm_config, tag, time.perf_counter() - begin)

    @_quiet
    def _before_compile(self) -> None:
        if not self._loading and not _uses_aot():
            self._collect()  # the older loader looks for its tree inside

    @_quiet
    def _timed(self, vllm_config: Any, tag: str, seconds: float) -> None:
        module = self._current
        if module is None:
            found = [
                m for m in self._modules if m.model.vllm_config is vllm_config and m.tag == tag
            ]
            module = found[0] if found else None
        if module is None or self._facts is None:
            return
        if self._loading:
            module.load_seconds += seconds
            return
        module.compiled, module.compile_seconds = True, seconds
        self._offer([module])

    @contextmanager
    def running(self, *, first: bool = False) -> Iterator[None]:
        """Around runs of what was loaded, or the first run of the last module alone: an exception
        there is the artifact's doing, but for a lack of memory."""
        try:
            yield
        except Exception as error:
            if not lacks_memory(error):
                self._marks.leave(self._current if first else None)
            raise

    @_quiet
    def ended(self) -> None:
        """The engine has run its first step."""
        assert self._facts is not None
        self.over = True
        self._marks.lift()
        self._ending.forget()
        if self._companion.unanswered:
            self._companion.kill()
        for module in self._modules:
            if module.loaded and module.note is not None:
                disk.keep(module.tree_path, module.note, "loaded", "")
        used = {(tree.layout, tree.hash) for tree in self._trees()}
        disk.keep_unused(self._facts, used, self._brought)
        brought = self._brought.values()
        line = end_line(self._modules, brought, self._budget.waited, cut=self._cut)
        logger.info("aotcache: %s", line)
        if not self._closed and disk.has_outcomes(self._facts.cache_root):
            try:
                self._companion.ask(Tell(cache_root=self._facts.cache_root))
            except OSError as error:
                logger.debug("aotcache: outcomes are left to the next start: %s", error)
        self._companion.leave()
        self._offer(self._modules)

    def _offer(self, modules: Sequence[Module]) -> None:
        """Write the records of modules, and have what is new published. It loads as well without:
        a cache root that only another user may write to, say."""
        assert self._facts is not None
        assert self._publisher is not None
        try:
            for module in modules:
                disk.write_records(self._facts, module, self._trees())
            self._publisher.ensure()
        except LocalError as error:
            if self._publisher.wanted:
                self._warn(f"nothing is published from here: {error}")
            else:
                logger.debug("aotcache: no record is kept here: %s", error)

    def _trees(self) -> list[TreeUsed]:
        assert self._facts is not None
        return [tree for module in self._modules for tree in module.trees(self._facts.part)]

    def _ask(self, *, hash: str = "", recipe: Recipe | None = None) -> None:
        if self._closed:
            return
        if self._budget.left <= 0:
            self._why, self._failed = f"no time left to pull it ({settings.DEADLINE})", True
            return
        assert self._facts is not None
        job = Fetch(
            cache_root=self._facts.cache_root,
            namespace=os.environ.get(settings.NAMESPACE) or DEFAULT_NAMESPACE,
            part=self._facts.part,
            platform=self._facts.detected.platform,
            hash=hash,
            recipe=recipe,
        )
        try:
            self._companion.ask(job)
        except OSError as error:
            self._close(f"its companion process cannot be started: {error}")

    def _collect(self, at_most: float = math.inf) -> None:
        """Wait for what was asked, as long as the budget lasts, or at most so many seconds."""
        while self._companion.unanswered and not self._closed:
            with self._budget.spend() as left:
                answer = self._companion.answer(min(left, at_most))
            if answer is not None:
                self._take(answer)
            elif left <= at_most:
                self._cut = True
                self._close(f"not pulled within {self._budget.total:.0f} s ({settings.DEADLINE})")
            else:
                return

    def _take(self, answer: Answer) -> None:
        for one in answer.brought:
            self._brought[one.layout, one.hash] = one
        self._why, self._failed = answer.error or answer.why, bool(answer.error)
        if answer.fatal:
            self._close(answer.error)
        elif answer.error:
            self._warn(f"a tree is not pulled: {answer.error}")

    def _close(self, why: str) -> None:
        self._closed = why
        self._companion.kill()
        self._warn(f"not used any more in this start, vLLM compiles: {why}")

    def _warn(self, text: str) -> None:
        """One warning a process; what else is to be said is for those who ask for more."""
        level = logging.DEBUG if self._warned else logging.WARNING
        self._warned = True
        logger.log(level, "aotcache: %s", text)

    def _give_up(self, error: Exception) -> None:
        self.over = True
        self._warn(f"not used in this start, vLLM compiles: {type(error).__name__}: {error}")
        logger.debug("aotcache: details", exc_info=error)
        self._left()

    def _left(self) -> None:
        """The process ends, or the cache is given up: nothing has crashed."""
        self._marks.lift()
        self._ending.forget()
        self._companion.kill()


def _uses_aot() -> bool:
    from vllm import envs

    return bool(getattr(envs, "VLLM_USE_AOT_COMPILE", False))
