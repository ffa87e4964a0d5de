"""Any torch.compile program: what it has to be started with so that its cache is one tree."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence

from aotcache.errors import UsageError
from aotcache.probe.platform import Detected
from aotcache.protocol.names import INDUCTOR, SHARED
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import EngineRecord, TreeUsed

CACHE_DIR = "TORCHINDUCTOR_CACHE_DIR"


def environment(tree_path: str, base: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a program's cache lies in the tree."""
    changed = {CACHE_DIR: tree_path}
    # Precompiled C++ headers lie outside every tree, in /tmp/torchinductor_$USER: a fresh node
    # would build them again although it compiles nothing else.
    if "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS" not in base:
        changed["TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"] = "0"
    return {**base, **changed}


def trap(environ: Mapping[str, str]) -> str | None:
    """What in the environment keeps the cache from being whole, in plain words."""
    if "TRITON_CACHE_DIR" in environ:
        return (
            f"TRITON_CACHE_DIR={environ['TRITON_CACHE_DIR']} keeps Triton's kernels outside the "
            "tree: they will not be published; unset it"
        )
    return None


def check_python(command: Sequence[str]) -> None:
    """Raises UsageError unless the command, or the script it is, runs this very Python: for any
    other its platform is not what can be detected here."""
    found = shutil.which(command[0])
    if found is None:
        return  # running it says so
    python = found if _is_python(found) else _interpreter(found)
    if python is None:
        raise UsageError(
            f"nothing says which Python {found} runs: say --platform detect if it is the one that "
            "aotcache is installed in, else --platform FILE"
        )
    if os.path.dirname(os.path.abspath(python)) != os.path.dirname(os.path.abspath(sys.executable)):
        raise UsageError(
            f"{python} is another Python than aotcache's ({sys.executable}): install aotcache "
            "there, or say --platform FILE"
        )


def _is_python(path: str) -> bool:
    return os.path.basename(path).startswith("python")


def _interpreter(script: str) -> str | None:
    """The Python that a script's first line names, or None."""
    try:
        with open(script, "rb") as file:
            first = file.readline(1024)
    except OSError:  # it may be run and not read
        return None
    words = first[2:].decode("utf-8", "replace").split() if first.startswith(b"#!") else []
    if len(words) > 1 and os.path.basename(words[0]) == "env":
        words = [shutil.which(words[1]) or words[1]]
    return words[0] if words and _is_python(words[0]) else None


def record(key: str, detected: Detected, compile_seconds: float | None = None) -> EngineRecord:
    """The engine record of a program that was run under `key`. None: its compile was not timed."""
    return EngineRecord(
        layout=INDUCTOR,
        hash=key,
        part=SHARED,
        platform=detected.platform,
        recipe=Recipe(engine="torch", engine_version=detected.platform.torch, model=key),
        expected_parts=(SHARED,),
        compile_seconds=compile_seconds,
        notes=detected.notes,
        trees=(TreeUsed(layout=INDUCTOR, hash=key, compile_seconds=compile_seconds),),
    )
