"""A platform that was written down: nothing of this machine is looked at."""

from __future__ import annotations

from aotcache.errors import FormatError, UsageError
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.platform import Platform
from aotcache.protocol.record import MAX_RECORD, decode_record


def load_platform(path: str) -> Platform:
    """Read a platform from a JSON file: a Platform by itself, or an engine record that holds one.

    Raises UsageError if the file cannot be read, FormatError if it is something else.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_RECORD + 1)
    except OSError as error:
        raise UsageError(f"cannot read the platform in {path}: {error.strerror}") from error
    try:
        return decode_json(data, Platform)
    except FormatError as error:
        try:
            return decode_record(data).platform
        except FormatError as other:
            raise FormatError(
                f"{path} holds neither a platform ({error}) nor an engine record ({other})"
            ) from other
