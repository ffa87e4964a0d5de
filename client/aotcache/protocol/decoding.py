"""JSON of any origin into our types."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

from aotcache.errors import FormatError

T = TypeVar("T")

# One decoder a type, made by one thread: msgspec 0.22 takes no lock where it gathers what it has to
# know of a type for the first time, and several threads that do so at once end the process.
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_making = threading.Lock()


def decode_json(data: bytes | memoryview, kind: type[T]) -> T:
    """Raises FormatError, and nothing else, for bytes of any kind."""
    decoder = _decoders.get(kind)
    if decoder is None:
        with _making:
            decoder = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    try:
        decoded: T = decoder.decode(data)
        return decoded
    # Text that is not UTF-8 and endless nesting are not DecodeErrors in msgspec.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(str(error)[:300]) from error
