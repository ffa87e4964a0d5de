"""Two faults of torch 2.13 that make a CPU node compile although every library is there.

vLLM loads the pieces of an artifact from several threads. Each asks torch which vector instructions
the CPU has; the probe that answers changes compiler flags on shared objects while it runs, and its
cache takes no lock (`torch/_inductor/cpu_vec_isa.py`), so that a thread may compute the key of a
library with a flag too many, and build it again under that name. And torch precompiles its headers,
which lie outside every tree and take 18 s, before it sees that there is nothing to compile
(`torch/_inductor/codecache.py`, `CppCodeCache.load_async`). No setting helps that vLLM would not
hash.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import iglob

logger = logging.getLogger("vllm.aotcache")


@contextmanager
def undisturbed(model_path: str) -> Iterator[float]:
    """Around the load of a `model`: torch finds the C++ libraries of its tree. Yields the seconds
    that it took to prepare, 0 where the tree holds none. Raises only what comes from inside."""
    if not os.path.exists(model_path) or not count_libraries(model_path):
        yield 0.0
        return
    begin = time.monotonic()
    _probe_once()
    with _without_headers():
        yield time.monotonic() - begin


def count_libraries(model_path: str) -> int:
    """How many C++ libraries lie in the tree of a `model`."""
    tree_path = os.path.dirname(os.path.dirname(model_path))
    return sum(1 for _ in iglob(os.path.join(tree_path, "inductor_cache", "??", "*.so")))


def _probe_once() -> None:
    """Have the instructions probed by this one thread, with the probes that lie in the tree."""
    try:
        from torch._inductor import cpu_vec_isa

        cpu_vec_isa.valid_vec_isa_list()
    except Exception as error:
        # Without a compiler, for one: the load will say what it lacks.
        logger.debug("aotcache: the CPU's instructions are not probed ahead: %s", error)


@contextmanager
def _without_headers() -> Iterator[None]:
    """The keys of libraries are made without it; one that is missing is built without it too."""
    try:
        from torch._inductor.codecache import CppPythonBindingsCodeCache as Cache

        before = Cache.__dict__["_get_uncompiled_header"]
    except Exception as error:
        logger.debug("aotcache: torch has no precompiled headers to leave out: %s", error)
        yield
        return
    # On the class: threads of the load see it, which a patched configuration they would not.
    Cache._get_uncompiled_header = classmethod(lambda cls, device: None)  # noqa: ARG005
    try:
        yield
    finally:
        Cache._get_uncompiled_header = before
