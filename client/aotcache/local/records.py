"""Engine records on disk: written by the compiling process, read by publishers."""

from __future__ import annotations

import os

from aotcache.local.state import TreeState, read_bytes, write_whole
from aotcache.protocol.record import EngineRecord, decode_record, encode_record


def write_record(tree_path: str, record: EngineRecord) -> str:
    """Write a record beside its tree; returns the path. A later one of the same part replaces
    it."""
    path = os.path.join(TreeState(tree_path).records, f"{record.part}.json")
    write_whole(path, encode_record(record))
    return path


def read_records(tree_path: str) -> list[EngineRecord]:
    """The records beside a tree, by part. Raises FormatError for one that cannot be read."""
    folder = TreeState(tree_path).records
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
    except FileNotFoundError:
        return []
    return [decode_record(read_bytes(os.path.join(folder, name))) for name in names]
