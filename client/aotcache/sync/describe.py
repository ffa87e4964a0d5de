"""Describe: the location-free digest of each file of a tree, read only where it has changed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from aotcache.core.pack import MAX_BLOB, digest_of
from aotcache.core.relocation import make_free
from aotcache.errors import NotSettledError, RelocationError
from aotcache.local.journal import Described, read_memo, write_memo
from aotcache.local.state import TreeState, read_bytes
from aotcache.probe.trees import FoundTree, LeftOut, ScannedFile


def read_free(tree: FoundTree, path: str) -> tuple[str, bytes]:
    """How a file is relocated, and its location-free bytes. Raises RelocationError, or
    NotSettledError when it went away."""
    try:
        content = read_bytes(os.path.join(tree.path, path))
    except OSError as error:
        raise NotSettledError(f"{tree.path}/{path}: {error.strerror}") from error
    return make_free(content, path, tree.hash)


def describe(
    tree: FoundTree, files: Iterable[ScannedFile]
) -> tuple[dict[str, Described], list[LeftOut]]:
    """What each file holds, by path, and what has to be left out."""
    state = TreeState(tree.path)
    memo = read_memo(state)
    described: dict[str, Described] = {}
    changed = []
    left_out: list[LeftOut] = []
    for file in files:
        if file.size > MAX_BLOB:
            reason = f"{file.size} bytes: of one file at most {MAX_BLOB} bytes are stored"
            left_out.append(LeftOut(file.path, reason))
            continue
        known = memo.get(file.path)
        if known is not None and known.stat == (file.size, file.mtime_ns, file.inode):
            described[file.path] = known
        else:
            changed.append(file)

    def read(file: ScannedFile) -> Described | RelocationError:
        try:
            relocate, free = read_free(tree, file.path)
        except RelocationError as error:
            return error
        stat = (file.size, file.mtime_ns, file.inode)
        return Described(stat, digest_of(free), len(free), relocate)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 2)) as pool:
        for file, result in zip(changed, pool.map(read, changed), strict=True):
            if isinstance(result, RelocationError):
                left_out.append(LeftOut(file.path, str(result)))
            else:
                described[file.path] = result
    if changed:
        # The memo is the tree's, these are the files of some of its parts.
        write_memo(state, memo | described)
    return described, left_out
