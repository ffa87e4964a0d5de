"""Locks between processes, and files of ours that are replaced whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aotcache.errors import LocalError
from aotcache.local.state import TreeState, read_folder, write_whole

HOLDER = """
import sys, time
from aotcache.local.state import TreeState
with TreeState(sys.argv[1]).locked():
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def state(tmp_path: Path) -> TreeState:
    return TreeState(str(tmp_path / "home" / "tree"))


def test_a_lock_keeps_another_process_out_and_goes_with_it(state: TreeState) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, state.tree_path], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LocalError, match="another process has been at"), state.locked(0.1):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with state.locked(5):
        pass


def test_threads_of_one_process_wait_for_each_other(state: TreeState) -> None:
    refused = []

    def other() -> None:
        with pytest.raises(LocalError), state.locked(0.1):
            pass
        refused.append(True)

    with state.locked():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused == [True]


def test_an_error_inside_frees_the_lock_and_is_itself(state: TreeState) -> None:
    with pytest.raises(OSError, match="of the block"), state.locked():
        raise OSError("of the block")
    with state.locked(0.1):
        pass


def test_a_lock_that_cannot_be_opened_is_a_local_error(state: TreeState) -> None:
    lock = Path(state.tree_path).parent / ".aotcache/locks/tree.lock"
    lock.mkdir(parents=True)
    with pytest.raises(LocalError, match=r"tree\.lock"), state.locked(0.1):
        pass


def test_a_state_that_cannot_be_made_is_a_local_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with (
        pytest.raises(LocalError, match="cannot make"),
        TreeState(f"{tmp_path}/home/tree").locked(),
    ):
        pass


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    seen: set[bytes] = set()
    write_whole(str(path), b"a" * 100_000)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            data = path.read_bytes()
            seen.add(data[:1] + data[-1:] + b"%d" % len(data))

    reader = threading.Thread(target=read)
    reader.start()
    for letter in b"abcdefgh" * 10:
        write_whole(str(path), bytes([letter]) * 100_000)
    stop.set()
    reader.join()
    assert seen <= {b"%c%c100000" % (letter, letter) for letter in b"abcdefgh"}
    assert os.listdir(path.parent) == ["file"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(LocalError, match="taken"):
        write_whole(str(tmp_path / "taken"), b"data")
    assert os.listdir(tmp_path) == ["taken"]


def test_manifests_by_part(state: TreeState) -> None:
    assert state.manifests() == {}
    write_whole(state.manifest("shared"), b"one")
    write_whole(state.manifest("rank_0_0-d1"), b"two")
    write_whole(f"{os.path.dirname(state.manifest('shared'))}/junk.tmp", b"not ours")
    assert state.manifests() == {"shared": b"one", "rank_0_0-d1": b"two"}


def test_forget_leaves_the_records(state: TreeState) -> None:
    for path in (state.manifest("shared"), state.journal, state.memo):
        write_whole(path, b"{}")
    write_whole(f"{state.records}/shared.json", b"{}")
    state.forget()
    state.forget()
    assert state.manifests() == {}
    assert not os.path.exists(state.journal)
    assert not os.path.exists(state.memo)
    assert os.listdir(state.records) == ["shared.json"]


def test_a_folder_that_cannot_be_read_is_a_local_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    with pytest.raises(LocalError, match=r"x\.json"):
        read_folder(str(tmp_path), ".json")
