"""Locks between processes, and between threads of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aotcache.errors import LocalError
from aotcache.local.locks import alone

HOLD = """
import sys
from aotcache.local.locks import alone
with alone(sys.argv[1]):
    print("here", flush=True)
    sys.stdin.read()
"""


def test_one_that_is_killed_holds_it_no_longer(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"here\n"
        told: list[bool] = []
        with pytest.raises(TimeoutError), alone(path, 0.1, lambda: told.append(True)):
            pass
        assert told == [True]
        os.kill(other.pid, signal.SIGKILL)
        with alone(path):
            pass


def test_threads_of_one_process_keep_each_other_out(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with alone(path):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_an_error_of_the_block_is_itself(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    for error in (TimeoutError("its own"), BlockingIOError("its own")):
        with pytest.raises(OSError, match="its own"), alone(path):
            raise error
    with alone(path, 0):
        pass


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(LocalError, match="lock"), alone(str(tmp_path / "lock")):
        pass
    assert not (tmp_path / "victim").exists()
