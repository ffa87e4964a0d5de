"""The hooks on a small `vllm` of the right shape, in processes of their own: what is patched and
when, and that nothing of ours gets into the engine."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

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
def site(tmp_path: Path) -> Path:
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


def _run(
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


REGISTER = "from aotcache.engines.vllm import register\nregister()\n"
PATCHED = """
def patched():
    from vllm.compilation import decorators, wrapper
    made = wrapper.TorchCompileWithNoGuardsWrapper.__init__
    return [
        hasattr(function, "__wrapped__")
        for function in (made, decorators._try_load_aot_compiled_fn)
    ]
"""


@pytest.mark.parametrize(
    "variables",
    [
        {"AOTCACHE_URL": ""},
        {"AOTCACHE_DISABLE": "1"},
        {"AOTCACHE_DISABLE": "yes"},
    ],
    ids=str,
)
def test_switched_off_it_imports_nothing_and_patches_nothing(
    site: Path, variables: dict[str, str]
) -> None:
    done = _run(
        site,
        "import sys\n"
        "before = set(sys.modules)\n"
        + REGISTER
        + "print(sorted(n for n in set(sys.modules) - before if n.startswith('aotcache')))\n"
        "import threading\n"
        "print(threading.active_count(), len(sys.meta_path))\n" + PATCHED + "print(patched())\n",
        **variables,
    )
    ours, rest, patched = done.stdout.splitlines()
    assert ours == str(
        ["aotcache", "aotcache.engines", "aotcache.engines.vllm", "aotcache.settings"]
    )
    assert rest.split()[0] == "1"
    assert patched == "[False, False]"


def test_registered_it_starts_and_imports_nothing_heavy(site: Path) -> None:
    done = _run(
        site,
        "import sys, threading\n"
        + REGISTER
        + "heavy = ['vllm', 'torch', 'msgspec', 'blake3', 'urllib3', 'subprocess']\n"
        "print([n for n in heavy if n in sys.modules], threading.active_count())\n",
    )
    assert done.stdout == "[] 1\n"
    assert not (site.parent / "root").exists()
    assert done.stderr == ""


@pytest.mark.parametrize("before", [True, False])
def test_patches_are_applied_on_import_and_to_what_is_imported(site: Path, before: bool) -> None:
    imports = "import vllm.compilation.decorators, vllm.compilation.wrapper\n"
    done = _run(
        site,
        "import sys\nfinders = len(sys.meta_path)\n"
        + (imports + REGISTER if before else REGISTER + imports)
        + PATCHED
        + "print(patched(), len(sys.meta_path) - finders)\n",
    )
    assert done.stdout == "[True, True] 0\n"


def test_one_module_may_come_before_the_other(site: Path) -> None:
    done = _run(
        site, "import vllm.compilation.wrapper\n" + REGISTER + PATCHED + "print(patched())\n"
    )
    assert done.stdout == "[True, True]\n"


def test_a_module_stays_what_it_is(site: Path) -> None:
    done = _run(
        site,
        REGISTER
        + """
import importlib.util, inspect
import vllm.compilation.decorators as module
print("bytes of another world" in inspect.getsource(module))
print("bytes of another world" in module.__loader__.get_source(module.__name__))
print(type(module.__loader__).__name__, module.__spec__.origin == module.__file__)
print(module._try_load_aot_compiled_fn.__doc__, module._try_load_aot_compiled_fn.__name__)
""",
    )
    assert done.stdout.splitlines() == [
        *("True", "True", "SourceFileLoader True"),
        "vLLM's own words. _try_load_aot_compiled_fn",
    ]


def test_who_only_looks_for_a_module_takes_nothing_away(site: Path) -> None:
    done = _run(
        site,
        REGISTER
        + "import importlib.util\n"
        + "importlib.util.find_spec('vllm.compilation.decorators')\n"
        + PATCHED
        + "print(patched())\n",
    )
    assert done.stdout == "[True, True]\n"


def test_a_module_that_fails_fails_as_it_would(site: Path) -> None:
    """And is patched when it can be imported after all."""
    file = site / "vllm/compilation/decorators.py"
    text = file.read_text()
    file.write_text("import os\nif 'BROKEN' in os.environ: raise RuntimeError('its own')\n" + text)
    done = _run(
        site,
        REGISTER
        + """
import os
os.environ["BROKEN"] = "1"
try:
    import vllm.compilation.decorators
except RuntimeError as error:
    print(error)
try:
    import vllm.compilation.none
except ModuleNotFoundError as error:
    print(error)
del os.environ["BROKEN"]
"""
        + PATCHED
        + "print(patched())\n",
    )
    assert done.stdout.splitlines() == [
        "its own",
        "No module named 'vllm.compilation.none'",
        "[True, True]",
    ]


def test_a_module_that_is_gone_is_not_found(site: Path) -> None:
    (site / "vllm/compilation/decorators.py").unlink()
    done = _run(
        site,
        REGISTER
        + """
try:
    import vllm.compilation.decorators
except ModuleNotFoundError as error:
    print(error)
""",
    )
    assert done.stdout == "No module named 'vllm.compilation.decorators'\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("wrapper", "OTHER = 1", "TorchCompileWithNoGuardsWrapper is not in this vLLM"),
        ("wrapper", "TorchCompileWithNoGuardsWrapper = 7", "vllm.compilation.wrapper"),
        ("wrapper", "TorchCompileWithNoGuardsWrapper = int", "vllm.compilation.wrapper"),
        ("decorators", "OTHER = 1", "_try_load_aot_compiled_fn(model, path) is not in"),
        ("decorators", "def _try_load_aot_compiled_fn(path): ...", "is not in this vLLM"),
        ("decorators", "_try_load_aot_compiled_fn = 7", "vllm.compilation.decorators"),
    ],
)
def test_a_vllm_that_has_changed_is_one_line(site: Path, name: str, text: str, said: str) -> None:
    (site / f"vllm/compilation/{name}.py").write_text(text)
    done = _run(
        site,
        REGISTER + f"import vllm.compilation.{name}\nprint('imported')\n",
    )
    assert done.stdout == "imported\n"
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


BUILD = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
import vllm.worker
from vllm.compilation import decorators
from vllm.compilation.wrapper import TorchCompileWithNoGuardsWrapper as Wrapper
"""


def test_a_start_without_a_service_is_one_warning(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "root/torch_compile_cache/torch_aot_compile" / ("a" * 64) / "rank_0_0/model"
    done = _run(
        site,
        REGISTER
        + BUILD
        + f"""
model = Wrapper(tag="backbone")
print(decorators._try_load_aot_compiled_fn(model, {str(path)!r}))
with decorators.monitor_torch_compile(model.vllm_config, tag="backbone"):
    print("compiled")
with decorators.monitor_profiling_run():
    print("ran")
print(vllm.worker.Worker().compile_or_warm_up_model(2))
""",
    )
    assert done.stdout.splitlines() == ["None", "compiled", "ran", "4"]
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1, done.stderr
    assert "no answer from http://127.0.0.1:1" in warnings[0]
    assert "Traceback" not in done.stderr


def test_vllms_own_exceptions_pass_unchanged(site: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("bad")
    done = _run(
        site,
        REGISTER
        + BUILD
        + f"""
class Own(Exception): ...
class Control(BaseException): ...

def raised(error, doing):
    try:
        with doing:
            raise error
    except BaseException as found:
        return found is error and found.__cause__ is None

model = Wrapper()
for error in (Own(), StopIteration(), KeyboardInterrupt(), Control(), GeneratorExit()):
    monitors = (
        decorators.monitor_torch_compile(model.vllm_config, tag=""),
        decorators.monitor_profiling_run(tag=""),
    )
    print(type(error).__name__, [raised(error, doing) for doing in monitors])

try:
    Wrapper(no_such=1)
except TypeError as found:
    print(found)
vllm.envs.VLLM_FORCE_AOT_LOAD = True
try:
    decorators._try_load_aot_compiled_fn(model, {str(bad)!r})
except RuntimeError as found:
    print(found)
""",
    )
    *raised, unknown, forced = done.stdout.splitlines()
    assert len(raised) == 5
    assert all(line.endswith("[True, True]") for line in raised), done.stdout
    assert "no_such" in unknown
    assert forced == "bytes of another world"


def test_a_load_that_is_refused_is_compiled_again(site: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("bad")
    done = _run(
        site,
        REGISTER
        + BUILD
        + f"print(decorators._try_load_aot_compiled_fn(Wrapper(), {str(bad)!r}))\n"
        + "print(len(decorators.logger.handlers))\n",
    )
    assert done.stdout == "None\n0\n"


def test_a_bug_of_ours_is_one_warning(site: Path) -> None:
    """A configuration that lacks all that is read of it."""
    file = site / "vllm/compilation/wrapper.py"
    file.write_text(file.read_text() + "del Config.parallel_config, Config.model_config\n")
    done = _run(
        site,
        REGISTER
        + BUILD
        + """
models = [Wrapper(), Wrapper()]
print(decorators._try_load_aot_compiled_fn(models[0], "/nowhere/model"))
with decorators.monitor_torch_compile(models[0].vllm_config):
    pass
print(vllm.worker.Worker().compile_or_warm_up_model(1))
""",
    )
    assert done.stdout == "None\n2\n"
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1, done.stderr
    assert "parallel_config" in warnings[0]


@pytest.mark.parametrize("broken", ["msgspec", "blake3", "filelock"])
def test_a_library_that_cannot_be_imported_does_not_end_the_engine(site: Path, broken: str) -> None:
    """Delivered as a directory on PYTHONPATH, they may be another Python's."""
    (site / f"{broken}.py").write_text("raise ImportError('undefined symbol: PyObject')")
    done = _run(
        site,
        REGISTER
        + BUILD
        + """
model = Wrapper()
print(decorators._try_load_aot_compiled_fn(model, "/nowhere/model"))
with decorators.monitor_torch_compile(model.vllm_config), decorators.monitor_profiling_run():
    pass
print(vllm.worker.Worker().compile_or_warm_up_model(1))
""",
    )
    assert done.stdout == "None\n2\n"
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1, done.stderr


def test_an_install_that_is_broken_does_not_end_the_engine(site: Path) -> None:
    done = _run(
        site,
        """
import sys
sys.modules["aotcache.engines.vllm.hooks"] = None  # cannot be imported
from aotcache.engines.vllm import register
register()
print("on")
""",
    )
    assert done.stdout == "on\n"
    assert len(done.stderr.splitlines()) == 1


def test_a_worker_of_another_shape_is_said(site: Path) -> None:
    (site / "vllm/worker.py").write_text("class Worker: ...\n")
    done = _run(site, REGISTER + BUILD + "Wrapper()\nprint('built')\n")
    assert done.stdout == "built\n"
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1, done.stderr
    assert "compile_or_warm_up_model" in warnings[0]
