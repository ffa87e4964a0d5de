"""JSON of any origin into our types."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from aotcache.errors import FormatError

T = TypeVar("T")


def decode_json(data: bytes | memoryview, kind: type[T]) -> T:
    """Raises FormatError, and nothing else, for bytes of any kind."""
    try:
        return msgspec.json.decode(data, type=kind)
    # Text that is not UTF-8 and endless nesting are not DecodeErrors in msgspec.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(str(error)[:300]) from error
