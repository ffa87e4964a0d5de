"""What a publisher remembers on disk: packs put by an interrupted publish, and digests of files.

Both only save work: a journal or memo that is lost or cannot be read costs an upload or a read.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TypeVar

import msgspec

from aotcache.errors import FormatError
from aotcache.local.state import TreeState, read_bytes, write_whole
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.manifest import PackPlace

logger = logging.getLogger(__name__)


class PutPack(msgspec.Struct, frozen=True):
    """A pack that is in storage. blobs: digest to (offset in its decompressed bytes, size)."""

    place: PackPlace
    blobs: dict[str, tuple[int, int]]


class Journal(msgspec.Struct, kw_only=True):
    """One publish of one tree to one place (`target`: storage or service URL, and namespace).
    searched: its packs, for secrets."""

    target: str
    publish_id: str
    packs: list[PutPack] = []
    searched: bool = False


class Described(msgspec.Struct, frozen=True, array_like=True):
    """A file's location-free bytes, as long as (size on disk, mtime_ns, inode) stay what they
    are."""

    stat: tuple[int, int, int]
    digest: str
    size: int
    relocate: str


T = TypeVar("T")


def _load(path: str, kind: type[T]) -> T | None:
    try:
        return decode_json(read_bytes(path), kind)
    except FileNotFoundError:
        return None
    except (FormatError, OSError) as error:
        logger.warning("%s cannot be read and is left aside: %s", path, error)
        return None


def read_journal(state: TreeState, target: str) -> Journal | None:
    """The journal of an interrupted publish to the same target, or None."""
    journal = _load(state.journal, Journal)
    return journal if journal is not None and journal.target == target else None


def write_journal(state: TreeState, journal: Journal) -> None:
    write_whole(state.journal, msgspec.json.encode(journal))


def drop_journal(state: TreeState) -> None:
    with suppress(FileNotFoundError):
        os.unlink(state.journal)


def read_memo(state: TreeState) -> dict[str, Described]:
    return _load(state.memo, dict[str, Described]) or {}


def write_memo(state: TreeState, memo: dict[str, Described]) -> None:
    write_whole(state.memo, msgspec.json.encode(memo))
