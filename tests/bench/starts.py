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
from statistics import median

from bench.stage import Found, Stage, same, say
from bench.timing import Sample
from bench.vllm_trees import LIMIT, lacking
from support.site import Service, run
from support.vllm import VENV, Started, start
from support.vllm_site import cold_start, plugin_env

COMPILE = "seconds of compile as vLLM reports it, and of our hooks"
HOOKS = "milliseconds that our hooks add, the tree already there"
STEPS = "milliseconds of our hooks, by step"
PARTS = "seconds of these starts"
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
                who: [Sample(one.seconds, 0.0) for one in started] for who, started in timed.items()
            }
        },
        numbers={
            HOOKS: {THERE: median(1000 * one.own for one in timed[THERE])},
            STEPS: {
                f"{who}, {step}": median(1000 * one.hooks[step] for one in timed[who])
                for who in (FRESH, THERE)
                for step in timed[who][0].hooks
            },
            PARTS: {
                f"{who}, {what}": median(getattr(one, name) for one in started)
                for who, started in timed.items()
                for what, name in (("compile", "compile_seconds"), ("engine init", "init_seconds"))
            },
        },
    )


@dataclass(frozen=True, slots=True)
class _Start:
    """hooks: seconds by step, of the rank in which they are the most."""

    compile_seconds: float
    init_seconds: float
    hooks: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return self.compile_seconds + sum(self.hooks.values())

    @property
    def own(self) -> float:
        """Without what torch would otherwise ask itself, in the load."""
        return sum(spent for step, spent in self.hooks.items() if step != "prepared")


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
    hooks = [json.loads(path.read_text()) for path in reports.glob("*.json")]
    most: dict[str, float] = max(hooks, key=lambda spent: sum(spent.values()), default={})
    return _Start(max(started.compile_seconds), started.init_seconds or 0.0, most)


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
    return Found(numbers={IMPORT: {"aotcache": median(took[1:])}})
