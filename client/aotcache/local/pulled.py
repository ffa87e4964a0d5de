"""Notes of pulls: what lies on this disk from elsewhere, so that the engine's verdict on it can be
told, and so that it is known again when it made an engine crash."""

from __future__ import annotations

import os
from contextlib import suppress

import msgspec

from aotcache.local.state import TreeState, read_bytes, write_whole
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.names import check_part
from aotcache.protocol.recipe import Recipe


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One part of one tree, as it was pulled. seconds and bytes: what this part's share of the pull
    took and moved. content: of `protocol.content`. outcome: the last one kept of it, to be told
    to the service; empty: none yet. started: the recipe of the start that compiled it; recipe: its
    id."""

    namespace: str
    layout: str
    hash: str
    platform: str
    part: str
    generation: int
    content: str
    recipe: str = ""
    seconds: float = 0.0
    bytes: int = 0
    compile_seconds: float | None = None
    outcome: str = ""
    started: Recipe | None = None


def _path(tree_path: str, part: str) -> str:
    return os.path.join(TreeState(tree_path).pulled, check_part(part) + ".json")


def write_note(tree_path: str, note: Note) -> None:
    write_whole(_path(tree_path, note.part), msgspec.json.encode(note))


def read_note(tree_path: str, part: str) -> Note | None:
    """The note of a part's last pull; None: it was not pulled. Raises FormatError, OSError."""
    try:
        return decode_json(read_bytes(_path(tree_path, part)), Note)
    except FileNotFoundError:
        return None


def drop_note(tree_path: str, part: str) -> None:
    """Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(_path(tree_path, part))
