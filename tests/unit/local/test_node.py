"""The processes of a node at one cache root: engines that live, and the one publisher."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aotcache.errors import LocalError
from aotcache.local.node import be_publisher, engines_live, join_engines, node_file

HOLD = """
import sys, time
from aotcache.local import node

print(getattr(node, sys.argv[1])(sys.argv[2]) is not None, flush=True)
time.sleep(120)
"""


@contextmanager
def _elsewhere(function: str, root: Path) -> Iterator[str]:
    """Another process that has called `function` and lives."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, function, str(root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_engines_live_as_long_as_one_does(tmp_path: Path) -> None:
    assert not engines_live(str(tmp_path))
    with _elsewhere("join_engines", tmp_path) as first:
        assert first == "True"
        assert engines_live(str(tmp_path))
        with _elsewhere("join_engines", tmp_path) as second:
            assert second == "True"
        assert engines_live(str(tmp_path))
    assert not engines_live(str(tmp_path))


def test_engines_of_another_root_do_not_count(tmp_path: Path) -> None:
    with _elsewhere("join_engines", tmp_path / "other"):
        assert not engines_live(str(tmp_path))


def test_one_publisher_until_it_dies(tmp_path: Path) -> None:
    with _elsewhere("be_publisher", tmp_path) as said:
        assert said == "True"
        assert be_publisher(str(tmp_path)) is None
        # The one has nothing to do with the other.
        assert not engines_live(str(tmp_path))
        os.close(join_engines(str(tmp_path)))
    descriptor = be_publisher(str(tmp_path))
    assert descriptor is not None
    with _elsewhere("be_publisher", tmp_path) as said:
        assert said == "False"
    os.close(descriptor)


def test_a_forked_child_holds_nothing(tmp_path: Path) -> None:
    """An engine forks workers that outlive it."""
    descriptor = join_engines(str(tmp_path))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # until the parent has let go
        os._exit(0)
    os.close(descriptor)
    assert not engines_live(str(tmp_path))
    os.close(writer)
    os.waitpid(child, 0)
    os.close(reader)


def test_files_of_ours_lie_in_a_directory_of_ours(tmp_path: Path) -> None:
    path = node_file(str(tmp_path / "root"), "publisher.log")
    assert path == str(tmp_path / "root/.aotcache/publisher.log")
    (tmp_path / "root/.aotcache").chmod(0o777)
    with pytest.raises(LocalError, match="written by others"):
        node_file(str(tmp_path / "root"), "publisher.log")


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("")
    Path(node_file(str(tmp_path), "engines.lock")).symlink_to(victim)
    with pytest.raises(LocalError, match=r"engines\.lock"):
        join_engines(str(tmp_path))


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match="cannot make"):
        be_publisher(str(tmp_path / "file"))
