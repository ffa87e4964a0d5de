"""Environment variables that switch caches off, move them out of the tree, or make a miss fatal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aotcache.engines.doctor.findings import Finding, note, ok, problem
from aotcache.engines.doctor.installed import Installed

# Names as torch/_dynamo/debug_utils.py picks those that it writes into a compiled model.
_EMBEDDED = ("TORCH", "DYNAMO", "INDUCTOR", "TRITON")
_SECRET = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY", "ACCESS_KEY")


def check_environment(environ: Mapping[str, str], installed: Installed) -> Iterator[Finding]:
    findings = [
        *_torch_traps(environ, installed),
        *(_vllm_traps(environ) if installed.vllm else ()),
        *_embedded(environ),
    ]
    yield from findings or [ok("environment", "no variable keeps the cache from working")]


def _torch_traps(environ: Mapping[str, str], installed: Installed) -> Iterator[Finding]:
    if "TRITON_CACHE_DIR" in environ:
        yield problem(
            "environment",
            f"TRITON_CACHE_DIR={environ['TRITON_CACHE_DIR']} keeps Triton's kernels outside the "
            "tree: they are not published, and a fresh node compiles them again",
            "unset it",
        )
    if "TORCHINDUCTOR_CACHE_DIR" in environ:
        where = environ["TORCHINDUCTOR_CACHE_DIR"]
        if installed.vllm and installed.vllm.nests:
            what = "vLLM overrides it; other programs write their cache there"
            remedy = "unset it, unless `aotcache exec` is meant to use that directory"
        else:
            what = "Inductor's files lie there, outside the cache root"
            remedy = "unset it, or start the program with `aotcache exec`, which publishes them"
        yield note("environment", f"TORCHINDUCTOR_CACHE_DIR={where}: {what}", remedy)
    for name in ("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "TORCH_COMPILE_FORCE_DISABLE_CACHES"):
        if environ.get(name, "0") not in ("", "0"):
            yield problem("environment", f"{name} switches torch's caches off", "unset it")
    if environ.get("TORCHINDUCTOR_FX_GRAPH_CACHE") == "0":
        yield problem(
            "environment",
            "TORCHINDUCTOR_FX_GRAPH_CACHE=0: Inductor neither saves nor finds compiled graphs",
            "unset it",
        )
    if environ.get("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0") != "0":
        yield note(
            "environment",
            "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS is on: precompiled C++ headers lie in "
            "/tmp/torchinductor_$USER, outside every tree, and each fresh node builds its own",
            "set it to 0",
        )


def _vllm_traps(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Values are read as vllm/envs.py reads them: some switches know only `1`."""
    if environ.get("VLLM_DISABLE_COMPILE_CACHE", "0").strip() not in ("", "0"):
        yield problem(
            "environment",
            "VLLM_DISABLE_COMPILE_CACHE: vLLM neither saves nor loads what it compiles",
            "unset it",
        )
    aot = environ.get("VLLM_USE_AOT_COMPILE", "1")
    if aot != "1":
        yield problem(
            "environment",
            f"VLLM_USE_AOT_COMPILE={aot} switches AOT compile off: there is no tree that can be "
            "pulled by its hash",
            "unset it",
        )
    if environ.get("VLLM_BATCH_INVARIANT", "0").strip() not in ("", "0"):
        yield problem(
            "environment",
            "VLLM_BATCH_INVARIANT: vLLM switches AOT compile off for it, so that there is no tree "
            "that can be pulled by its hash",
            "nothing, if the results have to be independent of the batch; else unset it",
        )
    mega = environ.get("VLLM_USE_MEGA_AOT_ARTIFACT", "1")
    if mega != "1":
        yield note(
            "environment",
            f"VLLM_USE_MEGA_AOT_ARTIFACT={mega}: works, but two trees travel for each module",
            "unset it",
        )
    if environ.get("VLLM_FORCE_AOT_LOAD") == "1":
        yield problem(
            "environment",
            "VLLM_FORCE_AOT_LOAD=1: a start that finds no tree, or cannot load it, fails where it "
            "would have compiled",
            "unset it on machines that serve",
        )


def _embedded(environ: Mapping[str, str]) -> Iterator[Finding]:
    names = sorted(
        name
        for name in environ
        if any(word in name for word in _EMBEDDED) and any(word in name for word in _SECRET)
    )
    for name in names:
        yield problem(
            "environment",
            f"{name} looks like a secret, and torch writes the value of every variable with such a "
            f"name ({', '.join(_EMBEDDED)}) into the compiled model, which is published",
            "give it another name, or unset it for the engine",
        )
