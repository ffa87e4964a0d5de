"""Engine records on disk: written by the compiling process, read by publishers."""

from __future__ import annotations

import os

from aotcache.errors import FormatError, LocalError
from aotcache.local.state import TreeState, read_bytes, read_folder, write_whole
from aotcache.protocol.record import EngineRecord, decode_record, encode_record


def record_path(tree_path: str, part: str) -> str:
    return os.path.join(TreeState(tree_path).records, f"{part}.json")


def write_record(tree_path: str, record: EngineRecord) -> str:
    """Write a record beside its tree; returns the path. A later one of the same part replaces
    it."""
    path = record_path(tree_path, record.part)
    write_whole(path, encode_record(record))
    return path


def read_record(tree_path: str, part: str) -> EngineRecord | None:
    """The record of one part; None: there is none. Raises FormatError, LocalError."""
    path = record_path(tree_path, part)
    try:
        return decode_record(read_bytes(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from error


def read_records(tree_path: str) -> list[EngineRecord]:
    """The records beside a tree, by part. Raises FormatError, which names the file, for one that is
    not a record, and LocalError."""
    records = []
    for part, data in read_folder(TreeState(tree_path).records, ".json").items():
        try:
            records.append(decode_record(data))
        except FormatError as error:
            raise FormatError(f"{record_path(tree_path, part)}: {error}") from error
    return records
