"""Unchanged: a tree that was stored, and has not changed since, is not read again.

A publish only ever adds paths: what a path holds was settled when it was first published. A new
path changes the time of its directory, so that the directories alone say whether there is one.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress

import msgspec

from aotcache.errors import FormatError
from aotcache.local.state import TreeState, read_bytes, write_whole
from aotcache.probe.trees import FoundTree, TreeScan
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.names import TreeKey, new_publish_id
from aotcache.protocol.platform import Platform
from aotcache.protocol.v1.publish import OpenSession
from aotcache.sync.published import ALREADY_STORED, Published, PublishedPart
from aotcache.sync.site import Site

logger = logging.getLogger(__name__)


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A tree as it was when all of it was stored.

    where: storage, namespace and trust that it was published with, and the platform that was asked
    for. directories: times of those of the tree, and of its records, in ns. parts: generation and
    number of files of each.
    """

    where: tuple[str, ...]
    platform: Platform
    directories: dict[str, int]
    records: int
    parts: dict[str, tuple[int, int]]
    raw_bytes: int


def see(
    site: Site,
    namespace: str,
    scan: TreeScan,
    platform: tuple[Platform | None, Platform],
    published: Published,
) -> None:
    """Remember that all of a tree is stored. platform: that was asked for, and the tree's."""
    asked, found = platform
    state = TreeState(scan.path)
    seen = Seen(
        where=_where(site, namespace, asked),
        platform=found,
        directories=dict(scan.directories),
        records=_time(state.records),
        parts={part.part: (part.generation, part.files) for part in published.parts},
        raw_bytes=published.raw_bytes,
    )
    write_whole(state.seen, msgspec.json.encode(seen))


def still_stored(
    site: Site, namespace: str, tree: FoundTree, asked: Platform | None
) -> Published | None:
    """What a publish would say of a tree in which nothing is new, and of which the service still
    has what was published; None: it has to be looked at. Raises what the service's answer says."""
    begin = time.monotonic()
    state = TreeState(tree.path)
    try:
        seen = decode_json(read_bytes(state.seen), Seen)
    except (OSError, FormatError) as error:
        logger.debug("nothing is known of %s: %s", tree.path, error)
        return None
    if seen.where != _where(site, namespace, asked) or not _is_same(state, seen):
        return None
    session = site.index.open_session(
        OpenSession(
            publish_id=new_publish_id(),
            layout=tree.layout,
            hash=tree.hash,
            namespace=namespace,
            platform=seen.platform,
            parts=tuple(sorted(seen.parts)),
        )
    )
    stored = {part.part: part.generation for part in session.parts}
    if stored != {part: generation for part, (generation, _) in seen.parts.items()}:
        return None
    return Published(
        tree=TreeKey(
            namespace=namespace, layout=tree.layout, hash=tree.hash, platform=seen.platform.id
        ),
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


def _where(site: Site, namespace: str, asked: Platform | None) -> tuple[str, ...]:
    signer = site.signer.id if site.signer else ""
    trust = f"{site.policy.mode} {' '.join(sorted(site.policy.keys))}"
    return (site.store.url, namespace, trust, signer, asked.id if asked else "")


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
