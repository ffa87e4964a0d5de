"""Paths of files inside a tree: relative, of a narrow alphabet, refused before a byte is
written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from aotcache.errors import InvalidNameError

MAX_PATH = 512
MAX_NAME = 200
# ASCII only, so that no two names are equal in another Unicode form.
_NAME = rf"[A-Za-z0-9_][A-Za-z0-9._,+=@-]{{0,{MAX_NAME - 1}}}"
_PATH = re.compile(rf"{_NAME}(?:/{_NAME})*")
_ONE = re.compile(_NAME)


def check_path(path: str) -> str:
    """A `/`-separated relative path. Raises InvalidNameError."""
    if len(path) > MAX_PATH:
        raise InvalidNameError(f"path of {len(path)} characters: {path[:80]!r}")
    if not _PATH.fullmatch(path):
        raise InvalidNameError(f"{path[:200]!r} is not a path a tree may hold")
    return path


def check_paths(paths: Sequence[str]) -> None:
    """Check each path, and that no two are equal (by case either) and none is another's
    directory."""
    split = [path.rpartition("/") for path in paths]
    # Many files lie in few directories, and many have the same name: each is looked at once.
    folders = {folder for folder, slash, _ in split if slash}
    names = {name for _, _, name in split}
    if not (
        max(map(len, paths), default=0) <= MAX_PATH
        and all(map(_PATH.fullmatch, folders))
        and all(map(_ONE.fullmatch, names))
    ):
        for path in paths:
            check_path(path)
    files = {path.lower() for path in paths}
    if len(files) < len(paths):
        _refuse_repeated(paths)
    around: set[str] = set()
    for folder in folders:
        parent = folder.lower()
        while parent and parent not in around:
            around.add(parent)
            parent = parent.rpartition("/")[0]
    if both := files & around:
        raise InvalidNameError(f"{min(both)!r} is a file and a directory")


def _refuse_repeated(paths: Iterable[str]) -> None:
    seen: set[str] = set()
    for path in paths:
        if path.lower() in seen:
            raise InvalidNameError(f"{path!r} is there twice, or in another case")
        seen.add(path.lower())
