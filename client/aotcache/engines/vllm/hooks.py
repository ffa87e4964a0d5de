"""Where the plugin holds on to vLLM: four functions of vLLM 0.32, found when they are imported.

    vllm.compilation.wrapper.TorchCompileWithNoGuardsWrapper.__init__   a decorated module is built
    vllm.compilation.decorators._try_load_aot_compiled_fn(model, path)  it is looked for on disk
    vllm.compilation.decorators.monitor_torch_compile                   times load and compile
    {worker class}.compile_or_warm_up_model                             the start ends

Nothing of vLLM is imported here: in a process that never builds a model the modules are never
imported, and nothing happens. No exception of ours gets into vLLM, and every one of vLLM's own
passes through unchanged.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from aotcache.engines.vllm.cpp import undisturbed

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from aotcache.engines.vllm.off import Off
    from aotcache.engines.vllm.start import Start

Patch = Callable[[ModuleType], None]

_WRAPPER = "vllm.compilation.wrapper"
_DECORATORS = "vllm.compilation.decorators"

_BY_RECIPE = "trees come by recipe only, when a module is built"
_NOTHING = "nothing is pulled; `aotcache pull --recipe-of` before the engine starts does it"


def install() -> None:
    """Patch vLLM's modules: now those that are there, the others when they are imported."""
    patches: dict[str, Patch] = {_WRAPPER: _patch_wrapper, _DECORATORS: _patch_decorators}
    for name, patch in patches.items():
        module = sys.modules.get(name)
        if module is not None:
            _apply(patch, module)
    waiting = {name: patch for name, patch in patches.items() if name not in sys.modules}
    if waiting:
        sys.meta_path.insert(0, _Finder(waiting))


def _start() -> Start | Off:
    """The start of this process; what it needs is imported when there is something to do."""
    try:
        from aotcache.engines.vllm.start import Start
    except Exception as error:
        # A package that lacks here, for one: the engine starts without us.
        from aotcache.engines.vllm.off import Off

        return Off.of_this_process(error)
    return Start.of_this_process()


def _apply(patch: Patch, module: ModuleType) -> None:
    try:
        patch(module)
    except Exception as error:
        _start().changed(f"{module.__name__} ({type(error).__name__}: {error})", _BY_RECIPE)


class _Finder:
    """On `sys.meta_path`. Finds nothing itself: has patches applied to what the others find."""

    def __init__(self, patches: dict[str, Patch]) -> None:
        self._patches = patches

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,  # noqa: ARG002 (the protocol's signature)
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        patch = self._patches.pop(name, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(name)
        # Back again: who finds a module need not import it.
        self._patches[name] = patch
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if self._patches.pop(name, None) is not None:
                _apply(patch, module)
            if not self._patches and self in sys.meta_path:
                sys.meta_path.remove(self)

        # On the loader itself, which stays what it is for whoever asks it for source.
        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _patch_wrapper(module: ModuleType) -> None:
    cls = getattr(module, "TorchCompileWithNoGuardsWrapper", None)
    if cls is None:
        _start().changed(f"{_WRAPPER}.TorchCompileWithNoGuardsWrapper", _NOTHING)
        return
    build = cls.__init__

    @functools.wraps(build)
    def built(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        if _start().built(self):
            _patch_worker(self.vllm_config)

    cls.__init__ = built


def _patch_decorators(module: ModuleType) -> None:
    load = getattr(module, "_try_load_aot_compiled_fn", None)
    if load is None or not _takes_model_and_path(load):
        _start().changed(f"{_DECORATORS}._try_load_aot_compiled_fn(model, path)", _BY_RECIPE)
        return

    @functools.wraps(load)
    def try_load(model: Any, path: str) -> Any:
        if _start().before_load(model, path):
            return None
        try:
            with _reasons(module) as reasons, undisturbed(path) as prepared:
                loaded = load(model, path)
        except Exception as error:  # VLLM_FORCE_AOT_LOAD
            _start().after_load(model, False, str(error) or type(error).__name__, 0.0)
            raise
        _start().after_load(model, loaded is not None, reasons[-1] if reasons else "", prepared)
        return loaded

    module._try_load_aot_compiled_fn = try_load  # type: ignore[attr-defined]
    _patch_monitors(module)


def _patch_monitors(module: ModuleType) -> None:
    """Compile seconds come from where vLLM takes its own; an exception in the first run of what was
    loaded is the artifact's doing."""
    compiling = getattr(module, "monitor_torch_compile", None)
    running = getattr(module, "monitor_profiling_run", None)
    if compiling is not None:

        @functools.wraps(compiling)
        @contextmanager
        def monitor_torch_compile(vllm_config: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
            with (
                _start().compiling(vllm_config, kwargs.get("tag", "")),
                compiling(vllm_config, *args, **kwargs),
            ):
                yield

        module.monitor_torch_compile = monitor_torch_compile  # type: ignore[attr-defined]
    if running is not None:

        @functools.wraps(running)
        @contextmanager
        def monitor_profiling_run(*args: Any, **kwargs: Any) -> Iterator[None]:
            with _start().running(first=True), running(*args, **kwargs):
                yield

        module.monitor_profiling_run = monitor_profiling_run  # type: ignore[attr-defined]


def _patch_worker(vllm_config: Any) -> None:
    """The class is named by the configuration; its module is imported where a module is built."""
    name = getattr(vllm_config.parallel_config, "worker_cls", None)
    home, _, attribute = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    cls = getattr(sys.modules.get(home), attribute, None)
    warm_up = getattr(cls, "compile_or_warm_up_model", None)
    if cls is None or warm_up is None:
        _start().never_ends(f"{name}.compile_or_warm_up_model")
        return

    @functools.wraps(warm_up)
    def compile_or_warm_up_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _start().running():
            result = warm_up(self, *args, **kwargs)
        _start().ended()
        return result

    cls.compile_or_warm_up_model = compile_or_warm_up_model


def _takes_model_and_path(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind("model", "path")
    except (TypeError, ValueError):
        return False
    return True


class _Reasons(logging.Handler):
    """Hears why vLLM refused to load: it says so in its log and nowhere else."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:
            return  # arguments that do not fit: what writes the log says so
        _, said, reason = message.partition("reason: ")
        if said:
            self.heard.append(reason)


@contextmanager
def _reasons(module: ModuleType) -> Iterator[list[str]]:
    logger = getattr(module, "logger", None)
    if not isinstance(logger, logging.Logger):
        yield []
        return
    handler = _Reasons()
    logger.addHandler(handler)
    try:
        yield handler.heard
    finally:
        logger.removeHandler(handler)
