"""What is pulled is verified and written here before the tree sees any of it."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from aotcache.core.relocation import MARKS
from aotcache.errors import LocalError, PackError, RelocationError
from aotcache.local.staging import Staging
from aotcache.protocol.manifest import BY_DIRECTORY, EXECUTABLE, PLAIN, FileEntry

LARGE = (16 << 20) + 1  # not held in memory
KERNEL = "inductor_cache/triton/{}/KERNELKERNELKERNEL/{}"


def _entry(path: str, data: bytes, mode: int = PLAIN, relocate: str = "") -> FileEntry:
    return FileEntry(path, len(data), mode, blake3(data).hexdigest(), relocate)


def _write(staging: Staging, data: bytes, *entries: FileEntry) -> None:
    chunks = [data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20)]
    for entry in entries:
        Path(staging.path, entry.path).parent.mkdir(parents=True, exist_ok=True)
    staging.write(entries[0].digest, len(data), chunks, list(entries))


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(str(tmp_path / ".aotcache" / "staging" / "tree"), str(tmp_path / "tree"), ())


@pytest.mark.parametrize("size", [0, 1000, LARGE])
def test_a_blob_is_written_to_all_files_that_have_it(staging: Staging, size: int) -> None:
    data = random.Random(size).randbytes(size)
    _write(staging, data, _entry("a/one", data), _entry("b/two", data, EXECUTABLE))
    for path in ("a/one", "b/two"):
        assert Path(staging.path, path).read_bytes() == data


def _inodes(staging: Staging, entries: list[FileEntry]) -> int:
    return len({Path(staging.path, entry.path).stat().st_ino for entry in entries})


@pytest.mark.parametrize("size", [1000, LARGE])
def test_a_kernel_that_all_devices_have_is_written_once(staging: Staging, size: int) -> None:
    data = bytes(size)
    kernels = [_entry(KERNEL.format(device, "k.cubin"), data) for device in range(3)]
    other = _entry(KERNEL.format(3, "k.cubin"), data, EXECUTABLE)
    _write(staging, data, *kernels, other)
    assert _inodes(staging, kernels) == 1
    assert _inodes(staging, [kernels[0], other]) == 2
    assert {Path(staging.path, one.path).read_bytes() for one in (*kernels, other)} == {data}


@pytest.mark.parametrize(
    "path",
    [
        "rank_{}_0/backbone/triton_cache/KERNELKERNELKERNEL/k.cubin",
        "rank_{}_0/backbone/inductor_cache/triton/0/KERNELKERNELKERNEL/k.cubin",
        "inductor_cache/a{}/code.py",
        "rank_{}_0/model",
        "inductor_cache/triton/{}/KERNELKERNELKERNEL/k.best_config",
    ],
)
def test_what_may_be_written_to_is_a_file_of_its_own(staging: Staging, path: str) -> None:
    entries = [_entry(path.format(number), b"same") for number in (1, 2)]
    _write(staging, b"same", *entries)
    assert _inodes(staging, entries) == 2


def test_all_directories_are_there_from_the_start(tmp_path: Path) -> None:
    files = [_entry("a/b/c/file", b""), _entry("a/file", b""), _entry("file", b"")]
    staging = Staging(str(tmp_path / "staging"), str(tmp_path / "tree"), files)
    assert sorted(found.name for found in Path(staging.path).rglob("*")) == ["a", "b", "c"]


@pytest.mark.parametrize("size", [1000, LARGE])
def test_bytes_that_are_not_those_of_the_digest(staging: Staging, size: int) -> None:
    data = bytes(size)
    entry = _entry("a/one", data)
    with pytest.raises(PackError, match="a/one"):
        _write(staging, data[:-1] + b"x", entry)


def test_modes_are_those_of_the_manifest_and_the_umask(tmp_path: Path) -> None:
    program = """
import os, sys
from blake3 import blake3
from aotcache.local.staging import Staging
from aotcache.protocol.manifest import EXECUTABLE, PLAIN, FileEntry
os.umask(0o027)
digest = blake3(b"x").hexdigest()
files = [FileEntry("a/plain", 1, PLAIN, digest), FileEntry("a/program", 1, EXECUTABLE, digest)]
staging = Staging(sys.argv[1], "/tree", files)
staging.write(digest, 1, [b"x"], files)
"""
    path = tmp_path / "staging"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in (path / "a").iterdir()}
    assert modes == {"plain": 0o640, "program": 0o750}
    assert stat.S_IMODE((path / "a").stat().st_mode) == 0o750
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_location_free_file_gets_its_place(staging: Staging, tmp_path: Path) -> None:
    free = b'{"child_paths": {"k.cubin": "%s/k.cubin"}}' % MARKS[BY_DIRECTORY]
    _write(staging, free, *(_entry(f"t/{n}/__grp__k.json", free, PLAIN, "dir") for n in (0, 1)))
    for number in (0, 1):
        written = Path(staging.path, f"t/{number}/__grp__k.json").read_text()
        assert f"{tmp_path}/tree/t/{number}/k.cubin" in written
    outside = free.replace(b"/k.cubin", b"/../k.cubin")
    with pytest.raises(RelocationError):
        _write(staging, outside, _entry("t/2/__grp__k.json", outside, PLAIN, "dir"))
    large = bytes(LARGE)
    with pytest.raises(PackError, match="too many"):
        _write(staging, large, _entry("t/3/__grp__k.json", large, PLAIN, "dir"))


def test_leftovers_of_a_dead_pull_are_cleared(staging: Staging, tmp_path: Path) -> None:
    _write(staging, b"old", _entry("a/one", b"old"))
    again = Staging(staging.path, str(tmp_path / "tree"), ())
    assert os.listdir(again.path) == []
    _write(again, b"new", _entry("a/one", b"new"))
    again.clear()
    again.clear()
    assert not os.path.lexists(again.path)


def test_a_planted_link_is_no_place_to_stage(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("precious")
    (tmp_path / "staging").symlink_to(tmp_path / "victim")
    with pytest.raises(LocalError, match="staging"):
        Staging(str(tmp_path / "staging"), str(tmp_path / "tree"), ())
    assert (tmp_path / "victim" / "file").read_text() == "precious"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("size", [3 << 20, LARGE])
def test_a_full_disk_is_named(tiny_disk: Path, size: int) -> None:
    staging = Staging(str(tiny_disk / "staging"), str(tiny_disk / "tree"), ())
    data = bytes(size)
    with pytest.raises(LocalError, match=r"a/one .*the disk is full"):
        _write(staging, data, _entry("a/one", data))
    staging.close()
    staging.clear()
    assert os.listdir(tiny_disk) == []
