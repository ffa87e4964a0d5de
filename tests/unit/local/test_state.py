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
from aotcache.local.state import TreeState, read_folder, target_of, write_whole

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


HERE = target_of("file:///store", "default", "0" * 32)


def test_manifests_by_target_and_part(state: TreeState) -> None:
    assert (state.remembered(HERE), state.targets()) == ({}, [])
    state.remember(HERE, "shared", b"one")
    state.remember(HERE, "rank_0_0-d1", b"two")
    assert state.remembered(HERE) == {"shared": b"one", "rank_0_0-d1": b"two"}
    others = [
        target_of("file:///other", "default", "0" * 32),
        target_of("file:///store", "team", "0" * 32),
        target_of("file:///store", "default", "1" * 32),
    ]
    assert len({HERE, *others}) == 4
    for other in others:
        assert state.remembered(other) == {}
        state.remember(other, "shared", b"another")
    assert state.remembered(HERE)["shared"] == b"one"
    assert state.targets() == sorted([HERE, *others])


def test_who_waits_says_so_once(state: TreeState) -> None:
    said: list[str] = []
    done = threading.Event()

    def other() -> None:
        with state.locked(60, said.append):
            done.set()

    with state.locked(waiting=said.append):
        thread = threading.Thread(target=other)
        thread.start()
        while not said:
            assert thread.is_alive()
        assert not done.is_set()
    thread.join()
    assert done.is_set()
    assert said == [f"waiting for another process that is at {state.tree_path}"]


def test_what_a_killed_writer_left_is_swept(state: TreeState) -> None:
    for number in ("", "2"):
        tree = TreeState(state.tree_path + number)
        tree.remember(HERE, "shared", b"manifest")
        for path in (tree.journal, tree.memo, f"{tree.records}/shared.json"):
            write_whole(path, b"{}")
    home = Path(state.tree_path).parent / ".aotcache"
    kept = {path for path in home.rglob("*") if path.is_file()}
    (record,) = (path for path in kept if path.parent.parts[-2:] == ("records", "tree"))
    for path in kept:
        path.with_name(f"{path.name}.0123abcd.tmp").write_bytes(b"half")
    with state.locked():
        left = {path for path in home.rglob("*.tmp") if "tree2" not in str(path)}
        # Records are written without the lock: one may be at it now.
        assert left == {record.with_name(f"{record.name}.0123abcd.tmp")}
        assert len([path for path in home.rglob("*.tmp") if "tree2" in str(path)]) == 4
        assert all(path.is_file() for path in kept)


def _refused(state: TreeState, why: str) -> None:
    for use in (
        lambda: state.remembered(HERE),
        lambda: state.remember(HERE, "shared", b"manifest"),
        lambda: state.staging,
        lambda: state.records,
        lambda: state.locked(1).__enter__(),
    ):
        with pytest.raises(LocalError, match=rf"\.aotcache {why}.*remove it"):
            use()


@pytest.fixture
def ours(state: TreeState) -> Path:
    directory = Path(state.tree_path).parent / ".aotcache"
    directory.mkdir(parents=True, mode=0o755)
    return directory


def test_a_state_that_is_a_link_is_refused(state: TreeState, ours: Path, tmp_path: Path) -> None:
    ours.rename(tmp_path / "elsewhere")
    ours.symlink_to(tmp_path / "elsewhere")
    _refused(state, "is not a directory")
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_state_that_others_can_write_to_is_refused(
    state: TreeState, ours: Path, mode: int
) -> None:
    ours.chmod(mode)
    _refused(state, "can be written by others")
    ours.parent.chmod(0o1777)
    _refused(state, "can be written by others")


def test_a_state_of_another_user_is_refused(state: TreeState, ours: Path) -> None:
    os.chown(ours, 12345, -1)
    _refused(state, "belongs to user 12345")
    assert os.listdir(ours) == []


def test_who_owns_the_cache_may_own_its_state(state: TreeState, ours: Path) -> None:
    """The engine's user, seen by a watcher of another."""
    for path in (ours, ours.parent):
        os.chown(path, 12345, 12345)
    state.remember(HERE, "shared", b"manifest")
    # As a Kubernetes volume with an fsGroup comes back.
    for path in (ours, ours.parent):
        path.chmod(0o2775)
    assert state.remembered(HERE) == {"shared": b"manifest"}
    with state.locked(1):
        pass


def test_a_folder_that_cannot_be_read_is_a_local_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    with pytest.raises(LocalError, match=r"x\.json"):
        read_folder(str(tmp_path), ".json")
