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
from aotcache.engines.vllm.cpp import count_libraries
from aotcache.engines.vllm.ending import Ending
from aotcache.engines.vllm.failures import lacks_memory
from aotcache.engines.vllm.fetching import Fetching
from aotcache.engines.vllm.modules import Module, end_line
from aotcache.engines.vllm.publisher import Publisher
from aotcache.engines.vllm.root import usable_root
from aotcache.errors import LocalError
from aotcache.local.loading import has_crashed
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
        self._fetching = Fetching(self._warn)
        self._publisher: Publisher | None = None
        self._modules: list[Module] = []
        self._current: Module | None = None
        self._loading = False
        self._marks = disk.Marks()
        self._ending = Ending(self._marks.end)
        self._changed = ""  # what of vLLM's inside was not found
        self._ends_itself = True
        self._warned = False

    @classmethod
    def of_this_process(cls) -> Start:
        if cls._one is None:
            cls._one = cls()
        return cls._one

    def changed(self, what: str, so: str) -> None:
        """vLLM's inside is not what the hooks know. so: what remains."""
        self._changed = what
        self._warn(f"{what} is not in this vLLM as aotcache knows it: {so}")

    def never_ends(self, what: str) -> None:
        """Nothing tells when the engine has run its first step: each module's first run does."""
        self._ends_itself = False
        self._warn(f"{what} is not in this vLLM: a tree counts as loaded after its first run")

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
        with self._fetching.budget.spend():  # a pull or a publish may be at the tree
            crashes = disk.take_crashes(self._facts.cache_root)
        for note in crashes:
            self._warn(
                f"{note.layout}/{note.hash[:12]} {note.part} (generation {note.generation}) made "
                "the engine crash at its last start: it is not used here again, and lies in "
                f"{disk.crashed_path(self._facts.cache_root, note)}"
            )
        if not disk.has_all(self._facts):
            # vLLM 0.32 settles one factor of the hash, the layout of the KV cache, only after the
            # weights are loaded: until then the recipe says what is needed.
            self._fetching.ask(self._facts)
            if self._changed:
                self._fetching.collect()  # nothing tells later when it is needed
        return True

    @_quiet
    def before_load(self, model: Any, path: str) -> bool:
        """vLLM is about to look for `path`: have it there, if it can be had in time. True: it must
        not be loaded."""
        module = next((m for m in self._modules if m.model is model), None)
        self._current = module
        if module is None or self._facts is None:
            return False
        module.path = path
        if has_crashed(module.tree_path):
            module.why, module.failed = "it made the engine crash at its last start", True
            self._warn(f"{module.tree_path} is not loaded: {module.why}; move it away")
            return True
        there = disk.is_there(path)
        note = disk.note_of(module.tree_path, self._facts.part)
        # Where it is there, what is still fetched is not for it: only hear what has come, and for
        # what was pulled just now how that went.
        grace = _GRACE if note is not None and not note.outcome else 0.0
        self._fetching.collect(grace if there else math.inf)
        if not disk.is_there(path):
            self._fetching.ask(self._facts, module.hash)
            self._fetching.collect()
            if not disk.is_there(path) and self._fetching.turn(self._facts, module.hash):
                self._fetching.ask(self._facts, module.hash)
                self._fetching.collect()
            module.why = self._fetching.closed or self._fetching.why
            module.failed = bool(self._fetching.closed) or self._fetching.failed
            module.missed = bool(module.why) and not module.failed
        module.note = disk.note_of(module.tree_path, self._facts.part)
        if other := disk.other_graph(module.note, self._facts):
            module.why, module.failed = other, True
            self._warn(f"{module.tree_path} is not loaded: {other}")
            return True
        self._ending.watch()
        self._marks.set(self._facts, module)
        module.libraries = count_libraries(path)
        self._loading = True
        return False

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
            self._fetching.collect()  # the older loader looks for its tree inside

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
        if disk.other_graph(module.note, self._facts):
            # What lies there now is this start's own.
            disk.forget(module.tree_path, self._facts.part)
            module.note = None
        published = self._offer([module])
        self._fetching.compiled(module.hash, published=published)

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
        if first and not self._ends_itself:
            self.ended(last=False)

    @_quiet
    def ended(self, *, last: bool = True) -> None:
        """The engine has run its first step, or only what it has loaded so far."""
        assert self._facts is not None
        self.over = last
        self._marks.lift()
        self._ending.forget()
        for module in self._modules:
            if not module.loaded:
                continue
            # A load that torch calls one may have compiled: the keys hold paths of headers.
            module.rebuilt = count_libraries(module.path) - module.libraries
            if module.note is not None:
                disk.keep(module.tree_path, module.note, "loaded", "")
        used = {(tree.layout, tree.hash) for tree in self._trees()}
        fetched = self._fetching
        disk.keep_unused(self._facts, used, fetched.brought)
        for module in self._modules:
            if module.compiled and module.path and module.missed:
                disk.keep_miss(self._facts, module, fetched.namespace)
        line = end_line(
            self._modules,
            fetched.brought.values(),
            fetched.budget.waited,
            cut=fetched.cut,
            for_others=fetched.waiting.waited if fetched.waited_for else 0.0,
        )
        logger.info("aotcache: %s", line)
        fetched.end(self._facts.cache_root, tell=disk.has_outcomes(self._facts.cache_root))
        self._offer(self._modules)

    def _offer(self, modules: Sequence[Module]) -> bool:
        """Write the records of modules, and have what is new published; whether it will be. It
        loads as well without: a cache root that only another user may write to, say."""
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
            return False
        return self._publisher.wanted

    def _trees(self) -> list[TreeUsed]:
        assert self._facts is not None
        return [tree for module in self._modules for tree in module.trees(self._facts.part)]

    def _warn(self, text: str) -> None:
        """One warning a process; what else is to be said is for those who ask for more."""
        level = logging.DEBUG if self._warned else logging.WARNING
        self._warned = True
        logger.log(level, "aotcache: %s", text)

    def _give_up(self, error: Exception) -> None:
        self.over = True
        self._warn(
            f"not used in this start, vLLM compiles: {type(error).__name__}: {error} (`aotcache "
            "doctor` says more)"
        )
        logger.debug("aotcache: details", exc_info=error)
        self._left()

    def _left(self) -> None:
        """The process ends, or the cache is given up: nothing has crashed."""
        self._marks.lift()
        self._ending.forget()
        self._fetching.leave()


def _uses_aot() -> bool:
    from vllm import envs

    return bool(getattr(envs, "VLLM_USE_AOT_COMPILE", False))
