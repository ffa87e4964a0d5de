"""Processor seconds of servers and their children, as the kernel counts them."""

from __future__ import annotations

import os
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def pid_of(*words: str) -> int:
    """The one process whose command line has these words. What has them because it runs that
    process for a limited time is not it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        if set(words) <= set(command) and not command[0].endswith("timeout"):
            found.append(int(folder.name))
    (pid,) = found
    return pid


def cpu_seconds(pid: int) -> float:
    """Of a process and its children, those that have ended included."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK + sum(map(cpu_seconds, children))
