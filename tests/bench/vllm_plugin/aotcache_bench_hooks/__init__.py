"""Test-only plugin of vLLM: what aotcache's hooks take of the engine's time.

Written to $BENCH_HOOKS/{pid}.json as it grows: seconds by method of `Start`, and `prepared`.
"""

from __future__ import annotations

import functools
import json
import os
import time
from pathlib import Path
from typing import Any

# All that the engine waits in, from building a module until it is loaded.
_METHODS = ("built", "before_load", "after_load")
_PREPARED = "prepared"  # what torch would ask itself later, asked before the load
_spent = dict.fromkeys((*_METHODS, _PREPARED), 0.0)


def register() -> None:
    if "AOTCACHE_URL" not in os.environ:
        return
    from aotcache.engines.vllm.start import Start

    for name in _METHODS:
        inner = getattr(Start, name)
        if inner.__module__ != __name__:  # vLLM may call plugins again
            setattr(Start, name, _timed(name, inner))


def _timed(name: str, inner: Any) -> Any:
    @functools.wraps(inner)
    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            _spent[name] += time.perf_counter() - begin
            if name == "after_load":
                _spent[_PREPARED] += args[-1]
            _write()

    timed.__module__ = __name__
    return timed


def _write() -> None:
    path = Path(os.environ["BENCH_HOOKS"]) / f"{os.getpid()}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(_spent))
    temporary.replace(path)
