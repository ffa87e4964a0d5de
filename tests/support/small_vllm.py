"""A small `vllm` of the shape that the hooks hold on to, for processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

REGISTER = "from aotcache.engines.vllm import register\nregister()\n"
BUILD = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
import vllm.worker
from vllm.compilation import decorators
from vllm.compilation.wrapper import TorchCompileWithNoGuardsWrapper as Wrapper
"""
WRAPPER = """
class TorchCompileWithNoGuardsWrapper:
    def __init__(self, *, tag="backbone"):
        self.vllm_config = CONFIG
        self._compile_tag = tag

class Parallel:
    worker_cls = "vllm.worker.Worker"
    rank = 0
    world_size = 1

class Model:
    model = "org/m"

class Config:
    parallel_config = Parallel()
    model_config = Model()
    compilation_config = None

CONFIG = Config()
"""
DECORATORS = """
import contextlib, logging, os
from vllm import envs

logger = logging.getLogger("vllm.compilation.decorators")

@contextlib.contextmanager
def monitor_torch_compile(vllm_config, *, tag=""):
    yield

@contextlib.contextmanager
def monitor_profiling_run(tag=""):
    yield

def _try_load_aot_compiled_fn(model, aot_compilation_path):
    \"\"\"vLLM's own words.\"\"\"
    try:
        with monitor_torch_compile(model.vllm_config, tag=model._compile_tag):
            with open(aot_compilation_path) as file:
                text = file.read()
            if text == "bad":
                raise RuntimeError("bytes of another world")
        return text
    except Exception as error:
        if os.path.exists(aot_compilation_path):
            if envs.VLLM_FORCE_AOT_LOAD:
                raise
            logger.warning("Compiling again, reason: %s", error)
        return None
"""
ENVS = """
import os
VLLM_CACHE_ROOT = os.environ["VLLM_CACHE_ROOT"]
VLLM_USE_AOT_COMPILE = True
VLLM_FORCE_AOT_LOAD = False
"""
WORKER = """
class Worker:
    def compile_or_warm_up_model(self, seconds):
        return seconds * 2
"""


@pytest.fixture
def small_vllm(tmp_path: Path) -> Path:
    """A directory with the package, for sys.path."""
    files = {
        "__init__": "__version__ = '0.32.0'\nfrom vllm import envs",
        "envs": ENVS,
        "compilation/__init__": "",
        "compilation/wrapper": WRAPPER,
        "compilation/decorators": DECORATORS,
        "worker": WORKER,
    }
    for name, text in files.items():
        file = tmp_path / "site/vllm" / (name + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "site"


def run_python(
    site: Path, program: str, check: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    environ: Mapping[str, str] = {
        **{name: value for name, value in os.environ.items() if "AOTCACHE" not in name},
        "PYTHONPATH": str(site),
        "VLLM_CACHE_ROOT": str(site.parent / "root"),
        "XDG_CONFIG_HOME": str(site.parent / "config"),
        "AOTCACHE_URL": "http://127.0.0.1:1",
        "AOTCACHE_TRUST": "unsigned",
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert not check or done.returncode == 0, done.stderr
    return done
