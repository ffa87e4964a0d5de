"""The systemd units: nothing wrong, little exposed, and nothing forbidden that they need."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.images import Images
from support.process import running, tool
from support.site import AOTCACHE, aotcache, printed
from support.small import small_tree
from support.vllm import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
WORST = 15  # of 100, as `systemd-analyze security` counts; a unit without hardening has 96
UNSHARED = ["unshare", "--mount", "sh", "-euc"]


def names(units: list[Path]) -> list[str]:
    return [unit.name for unit in units]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_systemd_finds_nothing_wrong(images: Images) -> None:
    """With the package in /opt/aotcache, as the units say: the service's image has it."""
    tool("systemd-analyze", "systemd")
    script = (
        'mount -t tmpfs tmpfs /opt; mkdir /opt/aotcache; mount --bind "$0" /opt/aotcache; exec "$@"'
    )
    package = images.image("service").root / "opt/aotcache"
    words = [*UNSHARED, script, str(package), "systemd-analyze", "verify", *map(str, UNITS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "aotcache" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("unit", UNITS, ids=names(UNITS))
def test_exposes_little(unit: Path) -> None:
    words = ["systemd-analyze", "security", "--offline=yes", f"--threshold={WORST}", "--no-pager"]
    done = subprocess.run([*words, str(unit)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def allowed_calls(unit: Path) -> set[str]:
    """The system calls that a unit's filter lets through, as systemd knows their groups."""
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit.read_text(), re.MULTILINE):
        groups = {call for group in line.removeprefix("~").split() for call in members(group)}
        allowed = allowed - groups if line.startswith("~") else allowed | groups
    return allowed | set(members("@default"))


def members(group: str) -> list[str]:
    words = ["systemd-analyze", "syscall-filter", "--no-pager", group]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    calls = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    return [
        inner
        for call in calls
        if not call.startswith("#")
        for inner in (members(call) if call.startswith("@") else [call])
    ]


# What MemoryDenyWriteExecute forbids, by the kernel's own switch for it: PR_SET_MDWE.
DENYING = """
import ctypes, os, sys
assert ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_what_the_filters_forbid_is_not_needed(tmp_path: Path) -> None:
    """The calls that service and watcher make while a tree is published and pulled."""
    data, calls = tmp_path / "data", tmp_path / "calls"
    traced = [tool("strace", "strace"), "--follow-forks", "--summary-only", "--output"]
    denying = [sys.executable, "-c", DENYING]
    tree = small_tree(tmp_path / "cache")
    env = {"AOTCACHE_TRUST": "unsigned", "VLLM_CACHE_ROOT": str(tmp_path / "cache")}
    log = tmp_path / "log"
    # Tracing ends with the process it follows.
    words = [*traced, str(calls), *denying, *AOTCACHE, "serve", "--data-dir", str(data), "--port=0"]
    with running(words, log, lambda: "listening on" in log.read_text()):
        found = re.search(r"listening on (\S+)", log.read_text())
        assert found
        env["AOTCACHE_URL"] = found[1]
        watched = tmp_path / "watched"
        watch = [*traced, str(watched), *denying, *AOTCACHE, "watch", "--quiet=0.2"]
        said = tmp_path / "watch.log"
        with running(watch, said, lambda: tree.hash[:12] in said.read_text(), env=env):
            (stored,) = printed(aotcache("ls", "--json", env=env))
            assert stored["hash"] == tree.hash
    by_name = {unit.name: unit for unit in UNITS}
    for file, unit in ((calls, "aotcache.service"), (watched, "aotcache-watch.service")):
        made = set(re.findall(r"^\s*[\d.]+\s.*\s(\w+)$", file.read_text(), re.MULTILINE)) - {
            "total"
        }
        assert {"openat", "execve"} <= made
        # SQLite keeps the owner of its files where root runs it, as here, and nobody else.
        assert made - allowed_calls(by_name[unit]) <= {"fchown"}, unit
