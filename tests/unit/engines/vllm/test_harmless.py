"""The hooks in a small engine: nothing of ours gets into it, whatever goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.small import add
from support.small_vllm import BUILD, REGISTER, run_python


def test_a_start_without_a_service_is_one_warning(small_vllm: Path, tmp_path: Path) -> None:
    path = tmp_path / "root/torch_compile_cache/torch_aot_compile" / ("a" * 64) / "rank_0_0/model"
    done = run_python(
        small_vllm,
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


def test_vllms_own_exceptions_pass_unchanged(small_vllm: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("bad")
    done = run_python(
        small_vllm,
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


def test_a_load_that_is_refused_is_compiled_again(small_vllm: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("bad")
    done = run_python(
        small_vllm,
        REGISTER
        + BUILD
        + f"print(decorators._try_load_aot_compiled_fn(Wrapper(), {str(bad)!r}))\n"
        + "print(len(decorators.logger.handlers))\n",
    )
    assert done.stdout == "None\n0\n"


def test_a_bug_of_ours_is_one_warning(small_vllm: Path) -> None:
    """A configuration that lacks all that is read of it."""
    file = small_vllm / "vllm/compilation/wrapper.py"
    file.write_text(file.read_text() + "del Config.parallel_config, Config.model_config\n")
    done = run_python(
        small_vllm,
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


@pytest.mark.parametrize("broken", ["msgspec", "blake3"])
def test_a_library_that_cannot_be_imported_does_not_end_the_engine(
    small_vllm: Path, broken: str
) -> None:
    """Delivered as a directory on PYTHONPATH, they may be another Python's."""
    (small_vllm / f"{broken}.py").write_text("raise ImportError('undefined symbol: PyObject')")
    done = run_python(
        small_vllm,
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


def test_an_install_that_is_broken_does_not_end_the_engine(small_vllm: Path) -> None:
    done = run_python(
        small_vllm,
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


def test_a_log_line_that_cannot_be_read_does_not_end_the_load(
    small_vllm: Path, tmp_path: Path
) -> None:
    file = small_vllm / "vllm/compilation/decorators.py"
    file.write_text(
        file.read_text().replace("    try:\n", "    logger.error('%d', 'x')\n    try:\n", 1)
    )
    (tmp_path / "model").write_text("good")
    done = run_python(
        small_vllm,
        REGISTER
        + BUILD
        + f"print(decorators._try_load_aot_compiled_fn(Wrapper(), {str(tmp_path / 'model')!r}))\n",
    )
    assert done.stdout == "good\n"
    assert "Logging error" in done.stderr


def test_without_the_workers_warm_up_the_first_run_ends_the_start(
    small_vllm: Path, tmp_path: Path
) -> None:
    (small_vllm / "vllm/worker.py").write_text("class Worker: ...\n")
    trees = tmp_path / "root/torch_compile_cache/torch_aot_compile"
    path = add(trees / ("a" * 64), "rank_0_0/model", b"good")
    done = run_python(
        small_vllm,
        REGISTER
        + BUILD
        + f"""
model = Wrapper()
print(decorators._try_load_aot_compiled_fn(model, {str(path)!r}))
with decorators.monitor_profiling_run():
    print("ran")
""",
    )
    assert done.stdout.splitlines() == ["good", "ran"]
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1, done.stderr
    assert "vllm.worker.Worker.compile_or_warm_up_model is not in this vLLM" in warnings[0]
    assert "aotcache: on this disk already: backbone aaaaaaaaaaaa loaded" in done.stderr
