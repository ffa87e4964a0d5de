"""`make release` of this tree, as if it were committed and the changelog named its version."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from aotcache import __version__
from release.changelog import ChangelogError, check

ROOT = Path(__file__).parents[2]
GOOD = """# Changelog

## [Unreleased]

## [1.1.0] - 2026-11-29

### Added

- Something.

## [1.0.0] - 2026-10-01

- From before there were headings.
"""


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=tests", "-c", "user.email=tests@example.invalid")
    return subprocess.check_output(["git", "-C", str(folder), *who, *words], text=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What git would take of this tree, committed in a repository of its own."""
    copy = tmp_path / "repository"
    names = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():  # not deleted since
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    git(copy.parent, "init", "--quiet", str(copy))
    commit(copy)
    return copy


def commit(repository: Path) -> None:
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "All there is")


def make_release(repository: Path) -> subprocess.CompletedProcess[str]:
    environment = Path(sys.prefix)
    # The environment of these tests is as new as it has to be.
    words = ["make", "release", f"VENV={environment}", "-o", f"{environment}/.installed"]
    return subprocess.run(
        words,
        cwd=repository,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_release(repository: Path) -> None:
    refused = make_release(repository)
    assert refused.returncode != 0
    assert f"has no section `## [{__version__}] - YYYY-MM-DD`" in refused.stderr

    changelog = repository / "CHANGELOG.md"
    heading = f"## [Unreleased]\n\n## [{__version__}] - 2026-11-29\n"
    changelog.write_text(changelog.read_text().replace("## [Unreleased]\n", heading, 1))
    commit(repository)
    made = make_release(repository)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]

    dist = repository / "dist"
    stem = f"aotcache-{__version__}"
    wheel, sdist = f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"
    bill = f"{stem}.cdx.json"
    assert {path.name for path in dist.iterdir()} == {wheel, sdist, bill, "SHA256SUMS"}
    for line in (dist / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest
    assert git(repository, "status", "--porcelain") == ""

    with tarfile.open(dist / sdist) as archive:
        inside = {member.name.removeprefix(f"{stem}/") for member in archive if member.isfile()}
    tracked = set(git(repository, "ls-files").split("\n")) - {""}
    # Dot-files at the top are the repository's own.
    sources = {name for name in tracked if not name.startswith(".")}
    assert inside - {"PKG-INFO", ".gitignore"} == sources
    with zipfile.ZipFile(dist / wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    code = {name.partition("/")[2] for name in tracked if re.match("(client|service)/", name)}
    assert packed == code

    said = json.loads((dist / bill).read_text())
    root = said["metadata"]["component"]
    assert (root["name"], root["version"]) == ("aotcache", __version__)
    locked = re.findall(
        r"^([a-z0-9._-]+)(?:\[.*?\])?==([^ ;]+)",
        (ROOT / "deploy/requirements.lock").read_text(),
        re.MULTILINE,
    )
    listed = [(one["name"], one["version"]) for one in said["components"]]
    assert sorted(listed) == sorted(locked)
    assert all(one["purl"] and one["externalReferences"] for one in said["components"])


def test_a_changelog_that_names_the_version() -> None:
    check(GOOD, "1.1.0")
    check(GOOD.replace("## [Unreleased]\n\n", ""), "1.1.0")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GOOD.replace("[1.1.0]", "[1.2.0]"), "no section `## [1.1.0] - YYYY-MM-DD`"),
        (GOOD.replace(" - 2026-11-29", ""), "has no date"),
        (GOOD.replace("2026-11-29", "29.11.2026"), "has no date"),
        (GOOD.replace("- Something.\n", ""), "names no change"),
        (GOOD.replace("### Added\n", ""), "under no heading"),
        (GOOD.replace("### Added\n", "### News\n"), "under News"),
        (
            GOOD.replace("[Unreleased]\n", "[Unreleased]\n\n### Fixed\n\n- Later.\n"),
            "move them to [1.1.0]",
        ),
        ("", "no section"),
    ],
)
def test_a_changelog_that_does_not(text: str, why: str) -> None:
    with pytest.raises(ChangelogError, match=re.escape(why)):
        check(text, "1.1.0")
