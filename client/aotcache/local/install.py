"""Install: move staged files into the tree, in units that appear whole.

A directory that the tree lacks is moved as one (a Triton `{KEY}` directory is never seen half
filled); a file that is there already is never replaced. What is looked for first comes last, so
that whoever finds it finds all it leads to.
"""

from __future__ import annotations

import errno
import os
import stat

from aotcache.errors import LocalError
from aotcache.local.state import make_directories

_TAKEN = {errno.ENOTEMPTY, errno.EEXIST}
# File systems without hard links.
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}


def install(staged: str, tree_path: str) -> None:
    """Move everything in `staged` into the tree. Killed at any point it leaves whole units, and the
    next pull moves the rest. Raises LocalError."""
    make_directories(tree_path)
    if os.path.islink(tree_path):
        raise _in_the_way(tree_path)
    try:
        _merge(staged, tree_path)
    except OSError as error:
        raise LocalError(f"cannot install into {tree_path}: {error}") from error


def _order(name: str) -> tuple[int, str]:
    if name in ("model", "vllm_compile_cache.py"):
        return 3, name
    if name.startswith(("rank_", "__grp__")):
        return 2, name
    return (1 if name in ("fxgraph", "aotautograd") else 0), name


def _merge(source: str, target: str) -> None:
    with os.scandir(source) as found:
        entries = sorted(found, key=lambda entry: _order(entry.name))
    for entry in entries:
        destination = os.path.join(target, entry.name)
        if entry.is_dir(follow_symlinks=False):
            _move_directory(entry.path, destination)
        else:
            _move_file(entry.path, destination)


def _move_directory(source: str, destination: str) -> None:
    try:
        os.rename(source, destination)
    except OSError as error:
        if error.errno == errno.ENOTDIR or error.errno in _TAKEN:
            if not stat.S_ISDIR(os.lstat(destination).st_mode):
                raise _in_the_way(destination) from error
            _merge(source, destination)
        else:
            raise


def _in_the_way(destination: str) -> LocalError:
    return LocalError(
        f"{destination} is a link or a file where the tree has a directory: nothing was written "
        "there; remove it"
    )


def _move_file(source: str, destination: str) -> None:
    try:
        os.link(source, destination, follow_symlinks=False)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # Without links there is a moment between the look and the rename: the engine writes these
        # files by rename itself, so the loser of that race is equal content.
        if not os.path.lexists(destination):
            os.rename(source, destination)
