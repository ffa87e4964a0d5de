"""The local directory: what a killed put leaves, durability of names, odd disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aotcache.errors import (
    ObjectExistsError,
    ObjectMissingError,
    StorageUnavailableError,
    UsageError,
)
from aotcache.storage import open_store
from aotcache.storage.files import INCOMING, STALE_SECONDS, FileStore

KEY = "ns/packs/ab/one"
DATA = b"0123456789" * 10_000

# Puts an object and dies, without a word, at the audit event of the number given.
KILLED_PUT = """
import os, signal, sys
from aotcache.storage import open_store
store = open_store(sys.argv[1])
left = int(sys.argv[2])
def hook(event, arguments):
    global left
    if event.startswith(("os.", "open", "shutil.", "aotcache.")):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
store.put(sys.argv[3], b"0123456789" * 10_000)
"""


def test_a_put_killed_anywhere_leaves_nothing_or_all(tmp_path: Path) -> None:
    outcomes = []
    for step in range(1, 50):
        root = tmp_path / str(step)
        command = [sys.executable, "-c", KILLED_PUT, root.as_uri(), str(step), KEY]
        code = subprocess.run(command, check=False, timeout=60).returncode
        assert code in (0, -signal.SIGKILL)
        store = open_store(root.as_uri())
        listed = [(found.key, found.size) for found in store.list("")]
        if listed:
            assert listed == [(KEY, len(DATA))]
            assert store.get(KEY) == DATA
        else:
            with pytest.raises(ObjectMissingError):
                store.get(KEY)
            store.put(KEY, DATA)
            assert store.get(KEY) == DATA
        outcomes.append((code, bool(listed)))
        if code == 0:
            break
    # It was killed before the object appeared, and after, and at last not at all.
    assert outcomes[0] == (-signal.SIGKILL, False)
    assert (-signal.SIGKILL, True) in outcomes
    assert outcomes[-1] == (0, True)


def test_what_killed_puts_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    incoming = tmp_path / INCOMING
    incoming.mkdir()
    old, young = incoming / "old", incoming / "young"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    past = time.time() - STALE_SECONDS - 60
    os.utime(old, (past, past))
    store = FileStore(str(tmp_path))
    store.put(KEY, DATA)
    assert not old.exists()
    assert young.exists()
    assert [found.key for found in store.list("")] == [KEY]


def test_nothing_but_objects_stays(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path))
    store.put(KEY, DATA)
    with pytest.raises(ObjectExistsError):
        store.put(KEY, DATA)
    assert list((tmp_path / INCOMING).iterdir()) == []
    store.delete(KEY)
    assert [path.name for path in tmp_path.iterdir()] == [INCOMING]


def test_puts_and_deletes_of_neighbours_at_once(tmp_path: Path) -> None:
    """A delete removes the emptied directory that a put is about to link into."""
    store = FileStore(str(tmp_path))
    failures: list[BaseException] = []

    def churn(name: str) -> None:
        try:
            for _ in range(100):
                store.put(f"ns/packs/ab/{name}", b"x")
                store.delete(f"ns/packs/ab/{name}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=churn, args=(f"n{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(store.list("")) == []


def test_a_directory_that_went_away_is_no_missing_object(tmp_path: Path) -> None:
    root = tmp_path / "volume"
    store = FileStore(str(root))
    root.rmdir()
    with pytest.raises(StorageUnavailableError, match="volume"):
        store.get(KEY)
    with pytest.raises(StorageUnavailableError, match="volume"):
        list(store.list(""))
    with pytest.raises(StorageUnavailableError, match="volume"):
        store.put(KEY, b"x")
    assert not root.exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    store = FileStore(str(tmp_path / "store"))
    (tmp_path / "store" / "ns").mkdir()
    (tmp_path / "store" / "ns" / "link").symlink_to(secret)
    with pytest.raises(StorageUnavailableError):
        store.get("ns/link")
    assert list(store.list("")) == []


def test_no_space(tmp_path: Path) -> None:
    """A put that the disk cannot hold leaves nothing; here the limit is the process's."""
    script = (
        "import resource, signal, sys\n"
        "from aotcache.errors import StorageUnavailableError\n"
        "from aotcache.storage import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        f"    store.put({KEY!r}, bytes(5000))\n"
        "except StorageUnavailableError as error:\n"
        f"    assert {KEY!r} in str(error), error\n"
        "    sys.exit(7)\n"
    )
    command = [sys.executable, "-c", script, tmp_path.as_uri()]
    assert subprocess.run(command, check=False, timeout=60).returncode == 7
    assert [path.name for path in tmp_path.rglob("*")] == [INCOMING]


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailableError, match="file"):
        open_store((tmp_path / "file").as_uri())


def test_a_root_with_odd_characters(tmp_path: Path) -> None:
    root = tmp_path / "a b#c%d"
    store = open_store(root.as_uri())
    store.put(KEY, DATA)
    assert (root / KEY).read_bytes() == DATA
    assert open_store(store.url).get(KEY) == DATA


@pytest.mark.parametrize("url", ["file://host/x", "file://", "file:///", "file:///x?y"])
def test_urls_that_name_no_directory(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)
