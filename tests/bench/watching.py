"""The watcher when nothing happens: CPU and inotify watches, with many trees to watch."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from pathlib import Path

from bench import ours
from bench.servers import SERVICE
from bench.stage import Found, Stage, say
from bench.work import make_small_trees

TREES, FILES, SECONDS = 100, 5_000, 60
CPU, WATCHES = "percent of a core, watcher idle", "inotify watches"
_PATIENCE = 600  # seconds for a tree to be published


def watching(stage: Stage) -> Found:
    """All trees are published first: an idle watcher knows them."""
    root = stage.home / "watched"
    say(f"watching: {TREES} trees of {FILES} files")
    make_small_trees(root, TREES, FILES)
    line = stage.line()
    command = [*ours.AOTCACHE, "watch", "--cache-root", str(root), "--json"]
    command += line.options[SERVICE]
    with (stage.home / "watch.log").open("wb") as log:
        watcher = subprocess.Popen(
            command, env=line.env, stdout=subprocess.PIPE, stderr=log, bufsize=0
        )
    try:
        _published(watcher)
        say("watching: nothing happens")
        time.sleep(5)
        before, begin = _cpu_seconds(watcher.pid), time.monotonic()
        time.sleep(SECONDS)
        share = (_cpu_seconds(watcher.pid) - before) / (time.monotonic() - begin)
        watches = _watches(watcher.pid)
    finally:
        watcher.terminate()
        watcher.wait(60)
    return Found(
        numbers={CPU: {"aotcache watch": 100 * share}, WATCHES: {"aotcache watch": watches}}
    )


def _published(watcher: subprocess.Popen[bytes]) -> None:
    """Wait until it has said so of every tree."""
    assert watcher.stdout is not None
    done: set[str] = set()
    while len(done) < TREES:
        ready, _, _ = select.select([watcher.stdout], [], [], _PATIENCE)
        line = watcher.stdout.readline() if ready else b""
        assert line, f"the watcher published {len(done)} of {TREES} trees and no more"
        done.add(json.loads(line)["tree"]["hash"])


def _cpu_seconds(pid: int) -> float:
    """User and system, of it and of the children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _watches(pid: int) -> int:
    return sum(
        text.count("inotify wd:")
        for path in Path(f"/proc/{pid}/fdinfo").iterdir()
        if "inotify" in (text := path.read_text())
    )
