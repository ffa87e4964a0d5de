"""Engine records on disk: written by the compiling process, read by publishers."""

from __future__ import annotations

import os

from aotcache.errors import FormatError
from aotcache.local.state import TreeState, read_folder, write_whole
from aotcache.protocol.record import EngineRecord, decode_record, encode_record


def write_record(tree_path: str, record: EngineRecord) -> str:
    """Write a record beside its tree; returns the path. A later one of the same part replaces
    it."""
    path = os.path.join(TreeState(tree_path).records, f"{record.part}.json")
    write_whole(path, encode_record(record))
    return path


def read_records(tree_path: str) -> list[EngineRecord]:
    """The records beside a tree, by part. Raises FormatError, which names the file, for one that is
    not a record, and LocalError."""
    folder = TreeState(tree_path).records
    records = []
    for part, data in read_folder(folder, ".json").items():
        try:
            records.append(decode_record(data))
        except FormatError as error:
            raise FormatError(f"{os.path.join(folder, part)}.json: {error}") from error
    return records
