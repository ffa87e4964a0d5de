"""Real vLLM in child processes of `.venv-vllm`, on a CPU, and what is to be seen of each start.

A start has four processes: the caller's, one that inspects the model, the engine's, and a worker a
rank; each imports torch and vLLM. On two cores a cold one takes 75 to 95 seconds and a warm one 35
to 50, most of it imports; two at once take nearly twice that. Beside `make env-vllm` it needs
nothing, and it reaches no network.

Without aotcache a warm start may compile a C++ file or two, also where every one is there: torch
asks what the CPU can do from several threads at once (`aotcache.engines.vllm.cpp`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-vllm"
# Not named vllm: `tests` is on the path of pytest, and would be found as that package.
HERE = ROOT / "tests" / "vllm_cpu"

# What the shell that runs the tests may have set, and a start must not see.
OURS = re.compile("AOTCACHE_|VLLM_|TORCH|TRITON_|OMP_|PYTHON|HF_")


@dataclass(frozen=True)
class Process:
    """The last report of one of vLLM's processes; `tests/vllm_cpu/plugin` writes it."""

    role: str  # MainProcess, ModelInspection, EngineCore, VllmWorker-0, …
    rank: int | None
    modules: list[str]  # those of aotcache that it has imported
    threads: int  # how many run aotcache's code
    inductor: dict[str, int]  # torch's counters
    vllm: dict[str, int]  # vLLM's


@dataclass(frozen=True)
class Started:
    """A start that has ended. Without an exit code of 0 there are no tokens, times or latencies."""

    exit_code: int
    log: str
    processes: list[Process]
    built: list[str]  # C++ sources and headers that were compiled, in order
    tokens: list[int]
    init_seconds: float | None
    latencies: list[float]  # seconds of each timed token

    @property
    def workers(self) -> list[Process]:
        """By rank."""
        ranks = [process for process in self.processes if process.rank is not None]
        return sorted(ranks, key=lambda process: process.rank or 0)

    @property
    def compile_seconds(self) -> list[float]:
        """What vLLM says torch.compile took, cold or warm, a number for each worker."""
        return [float(took) for took in re.findall(r"torch\.compile took ([\d.]+) s", self.log)]

    @property
    def loaded(self) -> list[str]:
        """`model` files that were loaded."""
        return re.findall(r"Directly load AOT compilation from path (\S+)", self.log)

    @property
    def saved(self) -> list[str]:
        """`model` files that were compiled and written."""
        return re.findall(r"saved AOT compiled function to (\S+)", self.log)

    @property
    def aotcache(self) -> list[str]:
        """Lines of the log that are aotcache's."""
        return [line for line in self.log.splitlines() if re.search(r"\baotcache[\]:]", line)]

    def inductor(self, counter: str) -> int:
        """One of torch's counters, over all workers. Those that count what a warm start must not
        do: `fxgraph_lookup_write_file`, `triton_bundler_read_and_emit_kernel`."""
        return sum(worker.inductor.get(counter, 0) for worker in self.workers)


class Starting:
    """A start under way. `wait` must be called: it ends the processes, whatever happens."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder

    def wait(self) -> Started:
        try:
            exit_code = self.process.wait()
            return self._started(exit_code)
        finally:
            if self.process.poll() is None:
                self.process.terminate()  # `timeout` hands it on to all of vLLM's processes
                self.process.wait()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _started(self, exit_code: int) -> Started:
        result: dict[str, Any] = {"tokens": [], "init_seconds": None, "latencies": []}
        if exit_code == 0:
            result = json.loads((self.folder / "result").read_text())
        reports = sorted((self.folder / "reports").glob("*.json"))
        builds = (self.folder / "built").read_text().splitlines()
        return Started(
            exit_code=exit_code,
            log=(self.folder / "log").read_text(errors="replace"),
            processes=[Process(**json.loads(report.read_text())) for report in reports],
            built=[command.split()[0] for command in builds],
            **result,
        )


def launch(
    cache_root: Path,
    *,
    ranks: int = 1,
    mega: bool = True,
    timed_tokens: int = 0,
    batched_tokens: int | None = None,
    env: Mapping[str, str] | None = None,
    inspected: Path | None = None,
    limit_seconds: int = 280,
    within: Sequence[str] = (),
) -> Starting:
    """Start vLLM with the small model, generate eight tokens, end. Returns at once.

    `mega=False` takes the older pair of trees. `timed_tokens` more are generated and timed one
    by one. Another `batched_tokens` gives another hash. `env` is added last; its PYTHONPATH
    comes before the test plugin's. `inspected` is a cache root of an earlier start: its list of
    inspected models is taken over, which saves ten seconds. After `limit_seconds` all is ended,
    with exit code 124. `within` is a command that runs the start, which is put behind it. A
    `{rank}` in `cache_root` gives each rank one of its own.
    """
    python = VENV / "bin" / "python"
    assert python.exists(), f"there is no {python}: run `make env-vllm`"
    env = dict(env or {})
    folder = Path(tempfile.mkdtemp(prefix="aotcache-vllm-"))
    for name in ("reports", "tmp"):
        (folder / name).mkdir()
    (folder / "built").touch()
    if inspected:
        shutil.copytree(inspected / "modelinfos", cache_root / "modelinfos")
    options = json.dumps(
        {"ranks": ranks, "timed_tokens": timed_tokens, "batched_tokens": batched_tokens}
    )
    program = [str(python), str(HERE / "start.py"), str(HERE / "model"), options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["timeout", "-k", "10", str(limit_seconds), *within, *program, str(folder / "result")],
            env={
                **{name: value for name, value in os.environ.items() if not OURS.match(name)},
                "VLLM_CACHE_ROOT": str(cache_root),
                "VLLM_USE_MEGA_AOT_ARTIFACT": str(int(mega)),
                # One setting for every number of ranks and cores: it goes into the hash.
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "OMP_NUM_THREADS": "1",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_LOGGING_LEVEL": "INFO",
                "VLLM_NO_USAGE_STATS": "1",
                "HF_HUB_OFFLINE": "1",
                # Saves 18 seconds; "1", in `env`, is torch's default.
                "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
                # No start finds what another one left in torch's default place.
                "TMPDIR": str(folder / "tmp"),
                "CXX": str(HERE / "bin" / "g++"),
                "TESTS_COMPILER_RUNS": str(folder / "built"),
                "TESTS_REPORTS": str(folder / "reports"),
                **env,
                "PYTHONPATH": os.pathsep.join(
                    filter(None, [env.get("PYTHONPATH"), str(HERE / "plugin")])
                ),
            },
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return Starting(process, folder)


def start(cache_root: Path, **options: Any) -> Started:
    """`launch`, and wait for the end."""
    return launch(cache_root, **options).wait()


def compiled_files(cache_root: Path) -> dict[str, tuple[int, int]]:
    """All files below the cache root's trees but locks: path, and inode and time of the last
    change, so that one that was written again is seen. With `mega=False` Inductor writes entries
    of `fxgraph` and `aotautograd` again at every start: there only the paths tell."""
    found = {}
    for path in (cache_root / "torch_compile_cache").rglob("*"):
        if path.is_file() and path.suffix != ".lock":
            about = path.stat()
            found[str(path.relative_to(cache_root))] = (about.st_ino, about.st_mtime_ns)
    return found


@dataclass(frozen=True)
class Cold:
    cache_root: Path
    started: Started


@pytest.fixture(scope="session")
def vllm_cold(tmp_path_factory: pytest.TempPathFactory) -> Cold:
    """One cold start without aotcache, for all tests that want a compiled tree to begin with. They
    may start on it again; to change it, they copy it."""
    cache_root = tmp_path_factory.mktemp("vllm") / "cold"
    started = start(cache_root)
    assert started.exit_code == 0, started.log[-5000:]
    return Cold(cache_root, started)
