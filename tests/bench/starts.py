"""Starts of real vLLM: on a fresh node with aotcache, and on the disk that compiled.

A start takes most of a minute, nearly all of it imports. What counts here is what vLLM reports for
torch.compile, and what the engine waits for in our hooks (`vllm_plugin` takes that time).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.stage import Found, Stage, same, say
from bench.timing import Sample
from bench.vllm_trees import LIMIT, lacking
from support.site import Service, run
from support.vllm import VENV, Started, start
from support.vllm_site import cold_start, plugin_env

COMPILE = "seconds of compile as vLLM reports it, and of our hooks"
HOOKS = "milliseconds of our hooks, the tree already there"
IMPORT = "milliseconds of the plugin's import in a vLLM process"
FRESH, SECOND, THERE = "fresh node, aotcache", "second start, same disk", "the same with aotcache"
_ROUNDS = 3
_PLUGIN = Path(__file__).with_name("vllm_plugin")
_IMPORT = """
import time
import vllm.engine.arg_utils
begin = time.perf_counter()
from aotcache.engines.vllm import register
register()
print(time.perf_counter() - begin)
"""


def starts(stage: Stage) -> Found:
    if lacks := lacking():
        return Found(left_out=lacks)
    home = stage.folder("vllm")
    with run(home / "service") as service:
        say("vLLM compiles")
        own = home / "own"
        cold_start(service, own, limit_seconds=LIMIT)
        timed: dict[str, list[_Start]] = {FRESH: [], SECOND: [], THERE: []}
        for number in range(min(stage.rounds, _ROUNDS)):
            timed[FRESH].append(_start(home, home / f"fresh-{number}", own, service))
            timed[SECOND].append(_start(home, own, own, None))
            timed[THERE].append(_start(home, own, own, service))
    return Found(
        runs={
            COMPILE: {
                who: [Sample(one.compile_seconds + one.hook_seconds, 0.0) for one in started]
                for who, started in timed.items()
            }
        },
        numbers={
            HOOKS: {THERE: _median([1000 * one.hook_seconds for one in timed[THERE]])},
            "of these starts, seconds": {
                f"{who}, {what}": _median([getattr(one, name) for one in started])
                for who, started in timed.items()
                for what, name in _PARTS
            },
        },
    )


_PARTS = (("compile", "compile_seconds"), ("hooks", "hook_seconds"), ("engine init", "init"))


@dataclass(frozen=True, slots=True)
class _Start:
    compile_seconds: float
    hook_seconds: float
    init: float


def _start(home: Path, root: Path, inspected: Path, service: Service | None) -> _Start:
    reports = home / "hooks"
    reports.mkdir(exist_ok=True)
    for old in reports.iterdir():
        old.unlink()
    env: Mapping[str, str] = plugin_env(service) if service else {}
    more = {"PYTHONPATH": str(_PLUGIN), "BENCH_HOOKS": str(reports)}
    # Its list of inspected models is taken over: ten seconds less.
    old_models = None if root == inspected else inspected
    started = start(root, env={**env, **more}, inspected=old_models, limit_seconds=LIMIT)
    _check(started)
    spent = [sum(json.loads(path.read_text()).values()) for path in reports.glob("*.json")]
    return _Start(max(started.compile_seconds), max(spent, default=0.0), started.init_seconds or 0)


def _check(started: Started) -> None:
    if started.exit_code:
        sys.exit(f"vLLM ended with {started.exit_code}:\n{started.log[-3000:]}")
    same([], started.saved, "a start that should have been warm compiled")


def idle(stage: Stage) -> Found:
    """What the plugin adds to every process of vLLM: its import, where vLLM is imported."""
    if lacks := lacking():
        return Found(left_out=lacks)
    env = {**stage.line().env, "AOTCACHE_URL": "http://127.0.0.1:1"}
    took = []
    for _ in range(stage.rounds + 1):
        words = [str(VENV / "bin" / "python"), "-c", _IMPORT]
        done = subprocess.run(words, env=env, check=True, stdout=subprocess.PIPE, text=True)
        took.append(1000 * float(done.stdout.split()[-1]))
    return Found(numbers={IMPORT: {"aotcache": _median(took[1:])}})


def _median(numbers: list[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]
