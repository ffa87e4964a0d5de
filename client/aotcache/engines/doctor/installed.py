"""What is installed beside aotcache: vLLM, torch, Triton, and what vLLM's source says of itself."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.metadata import entry_points

from aotcache.probe.sources import package_directory, parse, texts, version_in

PLUGIN_GROUP = "vllm.general_plugins"
_CACHE_DIR = "TORCHINDUCTOR_CACHE_DIR"
_HOOK = "_try_load_aot_compiled_fn"
_HOOK_TAKES = ["model", "aot_compilation_path"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vllm:
    """nests: Inductor's cache lies in the AOT directory, as from 0.20. hook: the function that the
    plugin wraps is there and takes what the plugin knows. known, hashed: environment variables that
    it has, and those that enter its hash (None: its source does not tell). unread: source files
    that could not be read, and why."""

    version: str
    nests: bool = False
    hook: bool = False
    known: frozenset[str] = frozenset()
    hashed: frozenset[str] | None = None
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """Versions, empty where not installed. plugins: names under which vLLM finds aotcache."""

    torch: str = ""
    triton: str = ""
    vllm: Vllm | None = None
    plugins: tuple[str, ...] = ()


def read_installed() -> Installed:
    torch, triton = package_directory("torch"), package_directory("triton")
    vllm = package_directory("vllm")
    points = entry_points(group=PLUGIN_GROUP)
    return Installed(
        torch=version_in(torch, "version.py") if torch else "",
        triton=version_in(triton, "__init__.py") if triton else "",
        vllm=_read_vllm(vllm) if vllm else None,
        plugins=tuple(
            sorted(point.name for point in points if point.value.startswith("aotcache."))
        ),
    )


def _read_vllm(directory: str) -> Vllm:
    unread: list[str] = []

    def read(file: str) -> ast.Module:
        try:
            return parse(directory, file)
        except (OSError, SyntaxError, ValueError) as error:
            unread.append(f"{file}: {error}")
            return ast.Module(body=[], type_ignores=[])

    envs, decorators = read("envs.py"), read("compilation/decorators.py")
    known = frozenset(texts(envs, "environment_variables") or ())
    return Vllm(
        version=version_in(directory, "_version.py"),
        nests=any(_sets_cache_dir(node) for node in ast.walk(decorators)),
        hook=any(_is_hook(node) for node in ast.walk(decorators)),
        known=known,
        hashed=_hashed(envs, known),
        unread=tuple(unread),
    )


def _hashed(envs: ast.Module, known: frozenset[str]) -> frozenset[str] | None:
    """Of all it knows it leaves some out; older ones name those that enter."""
    ignored = texts(envs, "ignored_factors")
    if ignored is not None and known:
        return known - ignored | (texts(envs, "ray_noset_env_vars") or set())
    named = texts(envs, "environment_variables_to_hash")
    return None if named is None else frozenset(named)


def _sets_cache_dir(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Subscript)
        and isinstance(target.slice, ast.Constant)
        and target.slice.value == _CACHE_DIR
        for target in node.targets
    )


def _is_hook(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.FunctionDef)
        and node.name == _HOOK
        and [argument.arg for argument in node.args.args] == _HOOK_TAKES
    )
