"""Sources of a commit, wheels built from them, and wheels installed where nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

# Its tools and its packages are its own, whatever this process was started with.
APART = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}


def check_out(repository: Path, commit: str, to: Path) -> Path:
    """The files of a commit in a new directory. A commit that is not there fails the test."""
    to.mkdir()
    git = ["git", "-C", str(repository), "archive", "--format=tar", commit]
    with subprocess.Popen(git, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", str(to)], stdin=archive.stdout, check=True)
    assert archive.returncode == 0, (
        f"{repository} has no commit {commit}: `git fetch --unshallow` brings its whole history"
    )
    return to


def build(
    source: Path,
    to: Path,
    *what: str,
    env: Mapping[str, str] | None = None,
    umask: int = -1,
) -> list[Path]:
    """What `python -m build` makes, by name: an sdist and the wheel of it; or, with `--wheel` and
    `--sdist`, each of the sources. By the hatchling of this environment."""
    command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(to)]
    done = subprocess.run(
        [*command, str(source)],
        env={**os.environ, **APART, **(env or {})},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return sorted(to.iterdir())


def install(wheel: Path, to: Path, extras: str) -> Path:
    """The `aotcache` of a new virtual environment that holds the wheel, its dependencies and no
    more."""
    venv.create(to)
    command = [sys.executable, "-m", "pip", "--python", str(to / "bin" / "python"), "install"]
    subprocess.run([*command, "--quiet", f"{wheel}[{extras}]"], check=True)
    return to / "bin" / "aotcache"
