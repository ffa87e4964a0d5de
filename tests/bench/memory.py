"""Peak memory of a pull and a publish, for trees of several sizes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence

from bench import ours
from bench.stage import Found, Stage, say
from bench.work import EIGHT, QWEN, TINY

PULL, PUBLISH = "peak MB over the interpreter, pull", "peak MB over the interpreter, publish"
# A process is charged with what its parent was when it forked: a small parent.
_LAUNCH = """
import os, sys
child = os.spawnvp(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss * 1024, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def memory(stage: Stage) -> Found:
    """Of the largest process that takes part, above a Python that does nothing. Once each: it is
    nearly the same every time."""
    line = stage.line()
    base = _peak([sys.executable, "-c", "pass"], line.env)
    pulls: dict[str, float] = {}
    publishes: dict[str, float] = {}
    for name in (QWEN, TINY, EIGHT):
        tree, root, platform = stage.tree(name), stage.root(name), stage.platform(name)
        for at, way in enumerate(line.options):
            say(f"memory: {name}, {way}")
            namespace = f"memory-{at}"
            ours.forget(tree)
            put = _peak(ours.push(line, way, tree, root, namespace), line.env)
            target = stage.folder(f"memory {name} {way}")
            command = ours.pull(line, way, tree, platform, target, namespace=namespace)
            get = _peak(command, line.env)
            publishes[f"{way}, {name}"] = (put - base) / 1e6
            pulls[f"{way}, {name}"] = (get - base) / 1e6
    return Found(numbers={PULL: pulls, PUBLISH: publishes})


def _peak(command: Sequence[str], env: Mapping[str, str]) -> int:
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCH, *command],
        env=dict(env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{command} failed with {done.returncode}:\n{done.stderr[-3000:]}")
    return int(done.stderr.split()[-1])
