"""The allow-list: which paths of a tree may be published, and whose part they are.

Read in the sources of torch 2.13, Triton 3.9 and vLLM. A name that no pattern knows stays where it
is: it may be a secret, a diagnostic, or something that only works where it was made. Left out on
purpose, because a start that finds its compiled graph does not read them: Inductor's `cache/`
(timings that the graph's choice came from), `memoizer_cache.json`, Dynamo's `dynamo/`, headers,
Halide and AOTInductor outputs, kernel inputs dumped for debugging.
"""

from __future__ import annotations

import re
from functools import cache

from aotcache.errors import InvalidNameError
from aotcache.protocol.names import INDUCTOR, SHARED, VLLM_AOT, VLLM_JIT
from aotcache.protocol.paths import MAX_NAME, check_path

# The version of this list: one more whenever the answer for any path changes. Two machines whose
# versions differ may list different files for the same tree.
LAYOUT_VERSION = 1

# Never published, and no reason to wonder: locks and what an interrupted write leaves behind.
# Triton's and Inductor's temporary directories are matched whole: a kernel may be called `tmp`.
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NEVER_NAMES = rf"locks|lock|[^/]*\.lock|[^/]*\.tmp|tmp\.pid_[^/]*|tmp\.{_UUID}|[^/]*_CxxBuild"
_NEVER = re.compile(_NEVER_NAMES)
_NEVER_IN = re.compile(rf"(?:^|/)(?:{_NEVER_NAMES})(?:/|\Z)")

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._,+=@-]*"
_NUMBER = r"(?:0|[1-9]\d{0,5})"
_RANK = rf"rank_{_NUMBER}_{_NUMBER}"

# `c{hash}.py`, `c{hash}.main.so`: sources, what was built from them, and what tuning found.
_CODE = (
    r"[a-z2-7]{2}/[A-Za-z0-9_][A-Za-z0-9_-]*(?:\.main|\.optimized|\.kernel)?"
    r"\.(?:py|cpp|cc|cxx|c|cu|cuh|h|hpp|s|so|ptx|cubin|hsaco|amdgcn|spv|zebin|json|txt"
    r"|best_config|kernel_perf|picked_kernel)"
)
_GRAPH = rf"(?:fxgraph|aotautograd)(?:/{_NAME})+"
_KERNEL = (
    rf"[A-Za-z0-9_][A-Za-z0-9_-]{{15,127}}/{_NAME}"
    r"\.(?:source|ttir|ttgir|tttcir|glir|llir|bc|ptx|cubin|hsaco|amdgcn|spv|zebin|asm|c|cpp|so|json)"
)
_TRITON = rf"triton/(?:0|[1-9]\d{{0,3}})/{_KERNEL}"
_CUTEDSL = r"cutedsl_compile_cache/[0-9a-f]{64}\.o"
_INDUCTOR = rf"(?:{_CODE}|{_GRAPH}|{_TRITON}|{_CUTEDSL})"

# Older vLLM writes straight into the rank's directory, and points TRITON_CACHE_DIR at
# `triton_cache`. An artifact is one file, or with VLLM_COMPILE_CACHE_SAVE_FORMAT=unpacked an
# Inductor cache.
_JIT_FILE = r"(?:vllm_compile_cache|computation_graph|transformed_code)\.py|cache_key_factors\.json"
_ARTIFACT = r"artifact_[A-Za-z0-9._,+=@-]+"
_JIT = (
    rf"(?:(?!inductor_cache/|triton_cache/|artifact_){_NAME}/)?"
    rf"(?:{_JIT_FILE}|{_ARTIFACT}(?:/{_INDUCTOR}|/{_NAME})?"
    rf"|inductor_cache/{_INDUCTOR}|triton_cache/(?:(?:0|[1-9]\d{{0,3}})/)?{_KERNEL})"
)

# The group is the rank whose file it is; where it did not match, the file is shared.
_ALLOWED = {
    VLLM_AOT: rf"inductor_cache/{_INDUCTOR}|({_RANK})/model",
    VLLM_JIT: rf"({_RANK})/{_JIT}",
    INDUCTOR: _INDUCTOR,
}


@cache
def _allowed(layout: str) -> re.Pattern[str]:
    """Compiled when it is asked for: all three take longer than what an unchanged tree needs."""
    return re.compile(_ALLOWED[layout])


def never(name: str) -> bool:
    """Is this the name of a file or directory that is never published, whatever is in it?"""
    return _NEVER.fullmatch(name) is not None


def classify(layout: str, path: str) -> str | None:
    """Whose file is this? `shared` or the rank's directory (`rank_0_0`); None: not to be published.

    layout: one of protocol.names.LAYOUTS. path: relative to the tree, `/` between names.
    """
    found = classify_checked(layout, path)
    return found if found and _is_path(path) else None


def classify_checked(layout: str, path: str) -> str | None:
    """The same for a path that `check_path` takes, as those of a manifest are."""
    # To search takes longer than all the rest, and each of these names has one of the three in it.
    if ("lock" in path or "tmp" in path or "_Cxx" in path) and _NEVER_IN.search(path):
        return None
    return _whose(_allowed(layout).fullmatch(path))


def classify_entered(layout: str, path: str) -> str | None:
    """The same for a path none of whose names is one of `never`, as whoever walks a tree knows."""
    found = _whose(_allowed(layout).fullmatch(path))
    return found if found and _is_path(path) else None


def _whose(match: re.Match[str] | None) -> str | None:
    if match is None:
        return None
    return match[1] if match.lastindex else SHARED


def _is_path(path: str) -> bool:
    """Of a path that the list allows: no name of it has other characters, but for digits."""
    if len(path) <= MAX_NAME and path.isascii():
        return True
    try:
        check_path(path)
    except InvalidNameError:
        return False
    return True
