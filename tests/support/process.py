"""Servers as child processes: free ports, a bounded life, stopped by their own pid."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# A test run that is killed leaves its servers behind: they end by themselves.
LIFETIME_SECONDS = 3600


def free_ports(count: int, beside: int = 0) -> list[int]:
    """Ports of 127.0.0.1 that nobody has, with `port + beside` free as well. All lie below the
    ephemeral range, so that no client's socket takes one before the server does."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(11_000, 22_000)
        if port not in found and _free(port) and (not beside or _free(port + beside)):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def tool(name: str, package: str) -> str:
    """A program beside this Python, or on PATH. A missing one fails the test: no test skips."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is missing: install {package}"
    return found


@contextmanager
def work_folder(prefix: str) -> Iterator[Path]:
    """A directory that other users may pass through, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix=f"aotcache-{prefix}-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    is_up: Callable[[], bool],
    *,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
    up_seconds: float = 60,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; `is_up` is asked until it says so."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["timeout", "-k", "10", str(LIFETIME_SECONDS), *command],
            env={**os.environ, **(env or {})},
            cwd=log.parent,
            user=user,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + up_seconds
        while not is_up():
            alive = process.poll() is None and time.monotonic() < deadline
            assert alive, f"{command[0]} did not start:\n{log.read_text(errors='replace')[-3000:]}"
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    """Whether an HTTP server answers there, whatever it says."""
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
    return True


def eventually(look: Callable[[], T | None], what: str, seconds: float = 60.0) -> T:
    """What `look` gives as soon as it is not None."""
    end = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.2)
    return found
