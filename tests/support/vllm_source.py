"""The few lines of vLLM's source that the doctor reads, as 0.32 and older ones have them.

For what depends on a version that is not installed. Only ever read: there is nothing to import.
"""

from __future__ import annotations

from pathlib import Path

ENVS = '''
import os
from collections.abc import Callable
from typing import Any

environment_variables: dict[str, Callable[[], Any]] = {
    "VLLM_PLUGINS": lambda: os.environ.get("VLLM_PLUGINS"),
    "VLLM_HOST_IP": lambda: os.getenv("VLLM_HOST_IP", ""),
    "VLLM_CACHE_ROOT": lambda: os.getenv("VLLM_CACHE_ROOT"),
    "VLLM_API_KEY": lambda: os.environ.get("VLLM_API_KEY", None),
    "VLLM_P2P_SIDE_CHANNEL_HOST": lambda: os.getenv("VLLM_P2P_SIDE_CHANNEL_HOST", "localhost"),
    "VLLM_RAY_BUNDLE_INDICES": lambda: os.getenv("VLLM_RAY_BUNDLE_INDICES", ""),
    "VLLM_NCCL_SO_PATH": lambda: os.environ.get("VLLM_NCCL_SO_PATH", None),
    "VLLM_USE_DEEP_GEMM": lambda: bool(int(os.getenv("VLLM_USE_DEEP_GEMM", "1"))),
}


def compile_factors() -> dict[str, object]:
    """Start with every known vLLM env var; drop entries in `ignored_factors`."""
    ignored_factors: set[str] = {
        # Where something lies.
        "VLLM_CACHE_ROOT",
        "VLLM_HOST_IP",
        "VLLM_API_KEY",
        "CUDA_VISIBLE_DEVICES",
    }
    factors: dict[str, object] = {}
    ray_noset_env_vars = [
        "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES",
    ]
    return factors
'''
OLD_ENVS = """
import os

environment_variables = {
    "VLLM_HOST_IP": lambda: os.getenv("VLLM_HOST_IP", ""),
    "VLLM_USE_TRITON_AWQ": lambda: bool(int(os.getenv("VLLM_USE_TRITON_AWQ", "0"))),
}


def compute_hash() -> str:
    environment_variables_to_hash = [
        "VLLM_USE_TRITON_AWQ",
    ]
    return str(environment_variables_to_hash)
"""
DECORATORS = """
import os
from typing import Any


def _try_load_aot_compiled_fn(
    model: Any,
    aot_compilation_path: str,
) -> Any | None:
    return None


def _support_torch_compile(cls):
    def __call__(self, *args, **kwargs):
        inductor_cache = os.path.join("cache_dir", "inductor_cache")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = inductor_cache
        return _try_load_aot_compiled_fn(self, "path")

    return cls
"""
OLD_DECORATORS = """
def _support_torch_compile(cls):
    return cls
"""


def install_vllm(
    site: Path,
    *,
    version: str = "0.32.0",
    envs: str | None = ENVS,
    decorators: str | None = DECORATORS,
) -> None:
    """The files the doctor reads, in a directory that a test puts on the path. None: not there."""
    package = site / "vllm"
    (package / "compilation").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('vLLM was imported')\n")
    (package / "_version.py").write_text(
        f"version: str\n__version__: str\n__version__ = version = {version!r}\n"
    )
    for file, text in (("envs.py", envs), ("compilation/decorators.py", decorators)):
        if text is not None:
            (package / file).write_text(text)


def install_torch(site: Path, version: str) -> None:
    package = site / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('torch was imported')\n")
    (package / "version.py").write_text(f"__version__ = {version!r}\ncuda = None\nhip = None\n")


def install_plugin(site: Path, name: str = "aotcache") -> None:
    """The entry point, as a distribution of its own name would declare it."""
    metadata = site / f"{name}_plugin_for_tests-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}-plugin-for-tests\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(
        f"[vllm.general_plugins]\n{name} = aotcache.engines.vllm:register\nother = other:register\n"
    )
