"""Events of the directories that hold trees, and where there are none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from aotcache.watch.events import Events, on_network

SECONDS = 20
MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/root rw
23 22 0:21 / {root}/nfs rw,relatime shared:5 - nfs4 server:/export rw,vers=4.2
24 23 8:2 / {root}/nfs/local rw - xfs /dev/sdb1 rw
25 22 0:22 / {root}/fuse rw - fuse.gcsfuse gcsfuse rw
26 22 0:23 / {root}/with\\040space rw master:1 propagate_from:2 - lustre mgs:/fs rw
27 22 0:24 / {root}/over rw - ceph mon:/ rw
28 22 0:25 / {root}/over rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("place", "network"),
    [
        ("local", False),
        ("nfs", True),
        ("nfs/deep/er", True),
        ("nfs-not", False),
        ("nfs/local/cache", False),
        ("fuse/bucket", True),
        ("with space/x", True),
        ("over/x", False),
        ("link", True),
    ],
)
def test_file_systems_that_other_hosts_write_to(tmp_path: Path, place: str, network: bool) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nfs")
    mountinfo = tmp_path / "mountinfo"
    strange = b"29 22 0:26 / /mnt/\xff rw - tmpfs tmpfs rw\n"
    mountinfo.write_bytes(MOUNTS.format(root=tmp_path).encode() + strange)
    assert on_network(str(tmp_path / place), str(mountinfo)) is network


def test_here_nothing_is_on_a_network(tmp_path: Path) -> None:
    assert not on_network(str(tmp_path))
    assert not on_network(str(tmp_path), str(tmp_path / "no mountinfo"))


@pytest.fixture
def events() -> Iterator[Events]:
    found = Events()
    yield found
    found.stop()


def _changed(events: Events) -> None:
    assert events.changed.wait(SECONDS)
    events.changed.clear()


def test_what_appears_or_goes_is_heard(events: Events, tmp_path: Path) -> None:
    events.watch([str(tmp_path), str(tmp_path / "not there")])
    _changed(events)  # what was in it already
    events.watch([str(tmp_path)])
    assert not events.changed.is_set()
    (tmp_path / "tree").mkdir()
    _changed(events)
    (tmp_path / "elsewhere").mkdir()
    _changed(events)
    (tmp_path / "elsewhere").rename(tmp_path / "moved")
    _changed(events)
    (tmp_path / "tree").rmdir()
    _changed(events)


def test_a_directory_that_went_and_came_back_is_watched_again(
    events: Events, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    for _ in range(2):
        home.mkdir()
        events.watch([str(home)])
        _changed(events)
        (home / "tree").mkdir()
        _changed(events)
        shutil.rmtree(home)
        events.watch([str(home)])
        events.changed.clear()
