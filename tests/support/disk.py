"""Small disks: file systems in memory, which only root may mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(root: Path, *options: str) -> Iterator[None]:
    """A new directory of 64 MB, or as the options of tmpfs say, the last of a kind."""
    root.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", ",".join(("size=64m", *options)), "aotcache", str(root)]
    subprocess.run(words, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def remount(root: Path, *options: str) -> None:
    words = ["mount", "-o", ",".join(("remount", *options)), str(root)]
    subprocess.run(words, check=True)


@contextmanager
def filled(root: Path, leave: int = 0) -> Iterator[None]:
    """The disk at `root` is full, but for `leave` bytes."""
    found = os.statvfs(root)
    file = root / "somebody's"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        os.posix_fallocate(descriptor, 0, found.f_bavail * found.f_frsize - leave)
        yield
    finally:
        os.close(descriptor)
        file.unlink()
