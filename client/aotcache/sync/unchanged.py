"""Unchanged: a tree that was stored, and has not changed since, is not read again.

A publish only ever adds paths: what a path holds was settled when it was first published. A new
path changes the time of its directory, so that the directories alone say whether there is one.
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from contextlib import suppress

import msgspec

from aotcache.errors import FormatError
from aotcache.local.state import TreeState, read_bytes, write_whole
from aotcache.probe.trees import FoundTree, TreeScan
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.names import TreeKey
from aotcache.remote.index import Index
from aotcache.sync.published import ALREADY_STORED, Published, PublishedPart

logger = logging.getLogger(__name__)


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A tree as it was when all of it was stored.

    where: what publishing it depended on. platform: its id. directories: times of those of the
    tree, and of its records, in ns. parts: generation and number of files of each.
    """

    where: tuple[str, ...]
    platform: str
    directories: dict[str, int]
    records: int
    parts: dict[str, tuple[int, int]]
    raw_bytes: int


def see(where: tuple[str, ...], scan: TreeScan, published: Published) -> None:
    """Remember that all of a tree is stored. where: the service's URL, the namespace, and all else
    that publishing it depended on; not how the bytes travelled, as they came to lie in the same
    place."""
    state = TreeState(scan.path)
    seen = Seen(
        where=where,
        platform=published.tree.platform,
        directories=dict(scan.directories),
        records=_time(state.records),
        parts={part.part: (part.generation, part.files) for part in published.parts},
        raw_bytes=published.raw_bytes,
    )
    write_whole(_path(state, where), msgspec.json.encode(seen))


def still_stored(
    index: Index, where: tuple[str, ...], namespace: str, tree: FoundTree
) -> Published | None:
    """What a publish would say of a tree in which nothing is new, and of which the service still
    has what was published; None: it has to be looked at. Raises what the service's answer says."""
    begin = time.monotonic()
    state = TreeState(tree.path)
    try:
        seen = decode_json(read_bytes(_path(state, where)), Seen)
    except (OSError, FormatError) as error:
        logger.debug("nothing is known of %s: %s", tree.path, error)
        return None
    if seen.where != where or not _is_same(state, seen):
        return None
    key = TreeKey(namespace=namespace, layout=tree.layout, hash=tree.hash, platform=seen.platform)
    stored = index.generations(key)
    if any(stored.get(part) != generation for part, (generation, _) in seen.parts.items()):
        return None
    return Published(
        tree=key,
        path=tree.path,
        parts=tuple(
            PublishedPart(
                part=part, generation=generation, files=files, new_files=0, status=ALREADY_STORED
            )
            for part, (generation, files) in sorted(seen.parts.items())
        ),
        left_out=(),
        raw_bytes=seen.raw_bytes,
        uploaded_bytes=0,
        seconds=time.monotonic() - begin,
    )


def _path(state: TreeState, where: tuple[str, ...]) -> str:
    """A file for each service and namespace: who publishes to two in turn has not changed the tree.
    Two of one name only overwrite each other."""
    name = zlib.crc32(repr(where[:2]).encode())
    return os.path.join(state.seen, f"{name:08x}.json")


def _is_same(state: TreeState, seen: Seen) -> bool:
    try:
        return _time(state.records) == seen.records and all(
            os.stat(f"{state.tree_path}/{directory}").st_mtime_ns == changed
            for directory, changed in seen.directories.items()
        )
    except OSError:
        return False


def _time(directory: str) -> int:
    with suppress(FileNotFoundError):
        return os.stat(directory).st_mtime_ns
    return 0
