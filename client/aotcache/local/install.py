"""Install: move staged files into the tree, in units that appear whole.

A directory that the tree lacks is moved as one (a Triton `{KEY}` directory is never seen half
filled); a file that is there already is never replaced. What is looked for first comes last, so
that whoever finds it finds all it leads to.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from aotcache.errors import LocalError
from aotcache.local.state import make_directories

_TAKEN = {errno.ENOTEMPTY, errno.EEXIST}
# File systems without hard links.
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}


def install(staged: str, tree_path: str) -> None:
    """Move everything in `staged` into the tree. Killed at any point it leaves whole units, and the
    next pull moves the rest. Raises LocalError.

    Directories of the tree are held open and never looked up by a path again: whoever else may
    write in them cannot lead what is moved to another place.
    """
    make_directories(tree_path)
    try:
        with _opened(staged) as source, _opened(tree_path) as target:
            _merge(source, target, tree_path)
    except OSError as error:
        raise LocalError(f"cannot install into {tree_path}: {error}") from error


@contextmanager
def _opened(path: str, at: int | None = None, where: str = "") -> Iterator[int]:
    """A directory's descriptor; a link is none. where: `path`, which is relative to `at`."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, dir_fd=at)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise _in_the_way(where or path) from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _order(name: str) -> tuple[int, str]:
    if name in ("model", "vllm_compile_cache.py"):
        return 3, name
    if name.startswith(("rank_", "__grp__")):
        return 2, name
    return (1 if name in ("fxgraph", "aotautograd") else 0), name


def _merge(source: int, target: int, where: str) -> None:
    """source, target: descriptors of directories. where: the target, for messages."""
    with os.scandir(source) as found:
        entries = sorted(found, key=lambda entry: _order(entry.name))
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            _move_directory(entry.name, source, target, f"{where}/{entry.name}")
        else:
            _move_file(entry.name, source, target)


def _move_directory(name: str, source: int, target: int, where: str) -> None:
    try:
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    except OSError as error:
        if error.errno != errno.ENOTDIR and error.errno not in _TAKEN:
            raise
        with _opened(name, source) as inner, _opened(name, target, where) as there:
            _merge(inner, there, where)


def _in_the_way(destination: str) -> LocalError:
    return LocalError(
        f"{destination} is a link or a file where the tree has a directory: nothing was written "
        "there; remove it"
    )


def _move_file(name: str, source: int, target: int) -> None:
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # Without links there is a moment between the look and the rename: the engine writes these
        # files by rename itself, so the loser of that race is equal content.
        try:
            os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
