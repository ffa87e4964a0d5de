"""sdist, wheel and bill of materials of the last commit, made twice and tried. `make release`.

    python -m release.release [--repository DIR] [--to DIR]

What is not committed is not released. Whoever builds the same commit with the tools of the group
`release` (pyproject.toml) gets the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import tomllib

from release.changelog import ChangelogError, check
from release.smoke import smoke
from support.wheels import build, check_out

LOCK = "deploy/requirements.lock"
# A second time with what must not matter.
OTHER = {"TZ": "Pacific/Auckland", "LC_ALL": "C", "PYTHONHASHSEED": "7"}


def release(repository: Path, to: Path, work: Path) -> list[Path]:
    """The files that were made. Raises ChangelogError, and AssertionError where they are not what
    they should be."""
    git = ["git", "-C", str(repository), "log", "-1", "--format=%ct", "HEAD"]
    env = {"SOURCE_DATE_EPOCH": subprocess.check_output(git, text=True).strip()}
    first = check_out(repository, "HEAD", work / "first")
    second = check_out(repository, "HEAD", work / "somewhere else")
    version = str(tomllib.loads((first / "pyproject.toml").read_text())["project"]["version"])
    check((first / "CHANGELOG.md").read_text(), version)

    say("building twice: a wheel from the sdist, and one from the sources")
    made = build(first, work / "made", env=env, umask=0o022)
    again = {**env, **OTHER}
    build(second, work / "again", "--sdist", "--wheel", env=again, umask=0o077)
    bill = f"aotcache-{version}.cdx.json"
    made.append(materials(first, work / "made" / bill, env))
    materials(second, work / "again" / bill, again)
    compare(made, work / "again")

    say("trying the wheel where nothing else is installed")
    wheel = next(path for path in made if path.suffix == ".whl")
    (work / "smoke").mkdir()
    smoke(wheel, work / "smoke", version)

    to.mkdir(parents=True, exist_ok=True)
    (work / "made" / "SHA256SUMS").write_text(
        "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(made))
    )
    return [Path(shutil.copy(path, to)) for path in (*sorted(made), work / "made" / "SHA256SUMS")]


def materials(source: Path, to: Path, env: Mapping[str, str]) -> Path:
    """CycloneDX's bill of what the service's image installs, with the hashes of the lock file."""
    command = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", LOCK]
    command += ["--pyproject", "pyproject.toml", "--output-reproducible", "-o", str(to)]
    subprocess.run(command, cwd=source, env={**os.environ, **env}, check=True)
    return to


def compare(made: Sequence[Path], again: Path) -> None:
    assert {path.name for path in made} == {path.name for path in again.iterdir()}
    others = [path.name for path in made if path.read_bytes() != (again / path.name).read_bytes()]
    assert not others, f"not the same bytes when built again: {', '.join(others)}"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repository", type=Path, default=Path())
    parser.add_argument("--to", type=Path, default=Path("dist"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aotcache-release-") as work:
        try:
            made = release(options.repository.resolve(), options.to.resolve(), Path(work))
        except ChangelogError as error:
            sys.exit(f"not released: {error}")
    for path in made:
        say(str(path))


if __name__ == "__main__":
    main()
