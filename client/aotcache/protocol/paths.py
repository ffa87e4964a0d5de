"""Paths of files inside a tree: relative, of a narrow alphabet, refused before a byte is
written."""

from __future__ import annotations

import re
from collections.abc import Iterable

from aotcache.errors import InvalidNameError

MAX_PATH = 512
MAX_NAME = 200
# ASCII only, so that no two names are equal in another Unicode form.
_NAME = rf"[A-Za-z0-9_][A-Za-z0-9._,+=@-]{{0,{MAX_NAME - 1}}}"
_PATH = re.compile(rf"{_NAME}(?:/{_NAME})*")


def check_path(path: str) -> str:
    """A `/`-separated relative path. Raises InvalidNameError."""
    if len(path) > MAX_PATH:
        raise InvalidNameError(f"path of {len(path)} characters: {path[:80]!r}")
    if not _PATH.fullmatch(path):
        raise InvalidNameError(f"{path[:200]!r} is not a path a tree may hold")
    return path


def check_paths(paths: Iterable[str]) -> None:
    """Check each path, and that no two are equal (by case either) and none is another's
    directory."""
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        folded = check_path(path).lower()
        if folded in files:
            raise InvalidNameError(f"{path!r} is there twice, or in another case")
        files.add(folded)
        parent = folded.rpartition("/")[0]
        while parent and parent not in folders:
            folders.add(parent)
            parent = parent.rpartition("/")[0]
    both = files & folders
    if both:
        raise InvalidNameError(f"{min(both)!r} is a file and a directory")
