"""The cache root: real directories, other users, a mount that allows no code."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from aotcache.engines.doctor.disk import check_root, mount_of
from aotcache.engines.doctor.findings import NOTE, OK, PROBLEM, Finding

MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 27 0:30 / /data rw,nosuid,noexec,relatime shared:5 - nfs4 server:/export rw,vers=4.2
32 27 0:31 / /data/my\\040cache rw,relatime - tmpfs tmpfs rw
33 32 0:32 / /data/my\\040cache rw,noexec - xfs /dev/vdb rw
34 27 0:33 / /database rw,noexec - tmpfs tmpfs rw
"""


def problems(findings: Iterable[Finding]) -> list[str]:
    return [finding.found for finding in findings if finding.level == PROBLEM]


@pytest.mark.parametrize(
    ("path", "point", "kind", "noexec"),
    [
        ("/data", "/data", "nfs4", True),
        ("/data/x", "/data", "nfs4", True),
        ("/data/my cache/x", "/data/my cache", "xfs", True),
        ("/datab", "/", "ext4", False),
        ("/", "/", "ext4", False),
    ],
)
def test_mount_of(tmp_path: Path, path: str, point: str, kind: str, noexec: bool) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    mount = mount_of(path, str(tmp_path / "mountinfo"))
    assert mount is not None
    assert (mount.point, mount.kind, "noexec" in mount.options) == (point, kind, noexec)


def test_a_machine_that_tells_no_mounts(tmp_path: Path) -> None:
    assert mount_of("/", str(tmp_path / "none")) is None


def test_a_mount_that_allows_no_code() -> None:
    """Whichever this machine has: /proc, /sys, /run … The one made for it is in tests/e2e."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    points = [line.split()[4] for line in text.splitlines() if "noexec" in line.split()[5]]
    for point in filter(os.path.isdir, points):
        assert any("mounted noexec" in found for found in problems(check_root(point)))


def test_a_file_system_without_room() -> None:
    assert any("0.0 GB free" in found for found in problems(check_root("/proc")))


def test_a_root_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    findings = list(check_root(str(tmp_path / "a" / "b")))
    assert not problems(findings)
    assert any("can be made" in finding.found for finding in findings)
    assert not list(tmp_path.iterdir())


def test_a_good_root_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "torch_compile_cache" / "torch_aot_compile").mkdir(parents=True)
    findings = list(check_root(str(tmp_path)))
    assert {finding.level for finding in findings} <= {OK, NOTE}
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "torch_aot_compile",
        "torch_compile_cache",
    ]


@pytest.mark.parametrize("below", ["", "x/y"])
def test_a_file_is_in_the_way(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    (found,) = problems(check_root(str(tmp_path / "file" / below)))
    assert "not a directory" in found


def test_a_home_that_nobody_expands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (found,) = problems(check_root("~/.cache/vllm"))
    assert "home directory" in found


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter: pytest's own is closed to others."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.parametrize("folder", ["", "torch_compile_cache/torch_aot_compile"])
def test_a_root_that_another_user_made(
    open_directory: Path, folder: str, as_another_user: Callable[..., list[Finding]]
) -> None:
    root = open_directory / "root"
    (root / "torch_compile_cache" / "torch_aot_compile").mkdir(parents=True)
    for path in (root, *root.rglob("*")):
        path.chmod(0o777)
    (root / folder).chmod(0o555)
    (found,) = problems(as_another_user(check_root, str(root)))
    assert f"{(root / folder)} cannot be written by" in found
    assert "belongs to" in found


def test_a_root_that_cannot_be_made(
    open_directory: Path, as_another_user: Callable[..., list[Finding]]
) -> None:
    open_directory.chmod(0o555)
    (found,) = problems(as_another_user(check_root, str(open_directory / "root")))
    assert "cannot be made" in found
    open_directory.chmod(0o755)
