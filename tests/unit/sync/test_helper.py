"""Helper: another process does a share, says how it went, and never outlives the one it helps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aotcache.errors import PackError
from aotcache.local.locks import alone
from aotcache.sync.helper import Helper, HelperKilledError, Say, is_worth
from support.process import eventually


@pytest.fixture
def helping() -> Iterator[Callable[[Callable[[bytes, Say], object]], Helper]]:
    helpers: list[Helper] = []

    def make(work: Callable[[bytes, Say], object]) -> Helper:
        helpers.append(Helper(work))
        return helpers[-1]

    yield make
    for helper in helpers:
        helper.stop()


def _gone(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()


def _heard(helper: Helper) -> list[Any]:
    found: list[Any] = []
    helper.listen(lambda said: found.append(msgspec.json.decode(said)))
    return found


def test_it_does_what_it_is_told_in_another_process(
    helping: Callable[..., Helper], tmp_path: Path
) -> None:
    def work(told: bytes, say: Say) -> None:
        say({"so": "many"})
        say([2, 3])
        (tmp_path / "told").write_bytes(told.strip())
        (tmp_path / "process").write_text(str(os.getpid()))

    helper = helping(work)
    helper.tell(b"many words" * 100_000)
    assert _heard(helper) == [{"so": "many"}, [2, 3]]
    assert (tmp_path / "told").read_bytes() == b"many words" * 100_000
    process = int((tmp_path / "process").read_text())
    assert process != os.getpid()
    helper.leave()
    eventually(lambda: _gone(process) or None, "it is gone, and reaped")
    helper.leave()
    helper.stop()


def test_it_begins_before_it_is_told(tmp_path: Path) -> None:
    helper = Helper(lambda _told, _say: None, (tmp_path / "begun").touch)
    eventually(lambda: (tmp_path / "begun").exists() or None, "its first step")
    helper.stop()


def test_its_errors_are_raised_here(helping: Callable[..., Helper]) -> None:
    def work(_told: bytes, _say: Say) -> None:
        raise PackError("a frame is damaged: tree x")

    helper = helping(work)
    helper.tell(b"")
    with pytest.raises(PackError, match=r"^a frame is damaged: tree x$"):
        _heard(helper)


def test_a_fault_in_it_is_told_with_its_place(helping: Callable[..., Helper]) -> None:
    helper = helping(lambda _told, _say: 1 // 0)
    helper.tell(b"")
    with pytest.raises(RuntimeError, match=r"(?s)test_helper\.py.*ZeroDivisionError"):
        _heard(helper)


def test_one_that_is_killed_is_an_error(helping: Callable[..., Helper]) -> None:
    helper = helping(lambda _told, _say: os.kill(os.getpid(), signal.SIGKILL))
    helper.tell(b"")
    with pytest.raises(HelperKilledError):
        _heard(helper)


def test_one_that_is_gone_already_can_be_told(helping: Callable[..., Helper]) -> None:
    helper = helping(lambda _told, _say: None)
    os.kill(helper._process, signal.SIGKILL)
    time.sleep(0.1)
    helper.tell(b"x" * 10_000_000)
    with pytest.raises(HelperKilledError):
        _heard(helper)


def test_stopped_it_writes_nothing_any_more(helping: Callable[..., Helper], tmp_path: Path) -> None:
    def work(_told: bytes, _say: Say) -> None:
        with (tmp_path / "file").open("wb", 0) as file:
            while True:
                file.write(b"more")

    helper = helping(work)
    helper.tell(b"")
    eventually(lambda: (tmp_path / "file").exists() or None, "it writes")
    helper.stop()
    size = (tmp_path / "file").stat().st_size
    time.sleep(0.2)
    assert (tmp_path / "file").stat().st_size == size


@pytest.mark.parametrize("told", [False, True])
def test_it_ends_with_the_process_that_it_helps(told: bool) -> None:
    code = f"""
import os, sys, time
from aotcache.sync.helper import Helper
helper = Helper(lambda told, say: time.sleep(600))
{"helper.tell(b'')" if told else ""}
print(helper._process, flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process = int(parent.stdout.readline())
        time.sleep(0.2)
        assert not _gone(process)
        parent.kill()
        eventually(lambda: _gone(process) or None, "it ended")


def test_who_reads_what_is_printed_does_not_wait_for_it() -> None:
    code = """
import os, time
from aotcache.sync.helper import Helper
helper = Helper(lambda told, say: time.sleep(600))
print(helper._process, flush=True)
os.close(1)
time.sleep(600)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read()  # to its end
        parent.kill()


def test_a_lock_that_was_held_when_it_was_made_is_let_go(
    helping: Callable[..., Helper], tmp_path: Path
) -> None:
    lock = str(tmp_path / "lock")
    with alone(lock):
        helping(lambda _told, _say: None)
    with alone(lock, timeout=0):
        pass


def test_a_lock_is_held_until_both_are_gone(tmp_path: Path) -> None:
    """A pull that is killed may be at its files for a moment longer: the next one waits."""
    lock = tmp_path / "lock"
    code = f"""
import os, time
from aotcache.local.locks import alone
from aotcache.sync.helper import Helper
with alone({str(lock)!r}):
    helper = Helper(lambda told, say: None, lambda: time.sleep(600))  # it does not look
    print(helper._process, flush=True)
    time.sleep(600)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        with pytest.raises(TimeoutError), alone(str(lock), timeout=0):
            pass
        os.kill(process, signal.SIGKILL)
        with alone(str(lock), timeout=10):
            pass


@pytest.mark.parametrize(
    ("size", "processors", "worth"), [(1 << 30, 2, True), (1 << 30, 1, False), (1000, 64, False)]
)
def test_when_it_is_worth_it(
    size: int, processors: int, worth: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    assert is_worth(size) is worth


def test_where_ends_of_children_are_ignored(tmp_path: Path) -> None:
    """As below a supervisor that ignores them: the kernel reaps."""
    code = f"""
import signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from aotcache.sync.helper import Helper
for number in range(3):
    helper = Helper(lambda told, say: open({str(tmp_path / "done")!r}, "a").write("x"))
    helper.tell(b"")
    helper.listen(lambda said: None)
    helper.leave() if number else helper.stop()
    helper.stop()
time.sleep(0.2)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (tmp_path / "done").read_text() == "xxx"
    assert done.stderr == b""


def test_a_first_step_that_fails_is_no_matter() -> None:
    helper = Helper(lambda _told, say: say("done"), lambda: 1 // 0)  # type: ignore[arg-type,return-value]
    helper.tell(b"")
    assert _heard(helper) == ["done"]
    helper.stop()
