"""The sections of a manifest: what can be had of one before anything in it is trusted.

header     one line of JSON: format, sizes of the sections, signatures
statement  zstd frame of JSON: what is stored. Signed, as the compressed bytes.
base       only in a node's own copy: the statement section that this one is written against
locations  zstd frame of JSON: where the bytes lie. Not signed: a digest guards every file, and a
           collector may move bytes to other packs without holding a key.

A statement that is written against a base, the one of an earlier generation, is the base's BLAKE3
and a frame that refers to the base's JSON: a generation that adds a few files takes a few bytes. A
base has none itself. What is signed names the base, which so needs no trust of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from blake3 import blake3

from aotcache import __version__
from aotcache.errors import FormatError, ManifestError
from aotcache.protocol.compression import zstd
from aotcache.protocol.decoding import decode_json

FORMAT = "aotcache-manifest/1"
FORMAT_ON_BASE = "aotcache-manifest/2"
FORMATS = (FORMAT, FORMAT_ON_BASE)
STATEMENT_TYPE = "application/vnd.aotcache.statement.v1+json+zstd"
STATEMENT_TYPE_ON_BASE = "application/vnd.aotcache.statement.v2+json+zstd"

MAX_HEADER = 64 << 10
MAX_MANIFEST = 64 << 20  # bytes of a stored manifest object
MAX_SECTION = 128 << 20  # bytes of a section after decompression
_LEVEL = 9
_DIGEST = 32  # bytes of a BLAKE3
_MIN_WINDOW, _MAX_WINDOW = 10, 27  # log2 of what zstd takes

Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
_Generation = Annotated[int, msgspec.Meta(ge=0, lt=100_000_000)]


_KeyId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]


class Signature(msgspec.Struct, frozen=True):
    """`key`: key id, 32 hex characters. `sig`: Ed25519 over `signed_message`."""

    key: _KeyId
    sig: bytes


class Base(msgspec.Struct, frozen=True):
    """A statement section that another is written against, and its generation of the same part."""

    generation: int
    statement: bytes


class Sections(msgspec.Struct, frozen=True, kw_only=True):
    """base: the generation that the statement is written against, 0: none. base_statement: its
    statement section, where it is kept here."""

    statement: bytes
    locations: bytes
    signatures: tuple[Signature, ...] = ()
    base: int = 0
    base_statement: bytes = b""


class _Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    format: str
    statement: Size
    locations: Size
    base: _Generation = 0
    base_statement: Size = 0
    signatures: tuple[Signature, ...] = ()


ReadBase = Callable[[int], bytes]
"""The manifest of that generation of the same part, as stored."""


def no_base(generation: int) -> bytes:
    raise ManifestError(f"it is written against generation {generation}, which is not at hand")


def signed_message(statement: bytes, *, on_base: bool) -> bytes:
    """DSSE v1 pre-authentication encoding of the statement section
    (https://github.com/secure-systems-lab/dsse/blob/master/protocol.md)."""
    kind = (STATEMENT_TYPE_ON_BASE if on_base else STATEMENT_TYPE).encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(statement), statement)


def join_sections(sections: Sections) -> bytes:
    header = _Header(
        format=FORMAT_ON_BASE if sections.base else FORMAT,
        statement=len(sections.statement),
        locations=len(sections.locations),
        base=sections.base,
        base_statement=len(sections.base_statement),
        signatures=sections.signatures,
    )
    line = msgspec.json.encode(header) + b"\n"
    return line + sections.statement + sections.base_statement + sections.locations


def split_manifest(data: bytes) -> Sections:
    """Raises ManifestError, and nothing else, for bytes of any kind."""
    if len(data) > MAX_MANIFEST:
        raise ManifestError(f"a manifest has at most {MAX_MANIFEST} bytes, this has {len(data)}")
    end = data.find(b"\n", 0, MAX_HEADER)
    if end < 0:
        raise ManifestError("no header line")
    try:
        header = decode_json(data[:end], _Header)
    except FormatError as error:
        raise ManifestError(f"bad header: {error}") from error
    if header.format not in FORMATS:
        raise ManifestError(
            f"format {header.format[:40]!r}; this aotcache, {__version__}, reads "
            f"{' and '.join(FORMATS)}: upgrade it"
        )
    if (header.format == FORMAT_ON_BASE) != (header.base > 0) or header.base_statement > (
        0 if not header.base else MAX_MANIFEST
    ):
        raise ManifestError(f"a base does not fit the format {header.format}")
    start = end + 1
    first = start + header.statement
    second = first + header.base_statement
    if second + header.locations != len(data):
        raise ManifestError("the sections' sizes do not add up to the object's")
    return Sections(
        statement=data[start:first],
        base_statement=data[first:second],
        locations=data[second:],
        signatures=header.signatures,
        base=header.base,
    )


def base_of(sections: Sections, read: ReadBase) -> Base | None:
    """What the statement is written against; None: it has all. Raises ManifestError where that is
    not what the statement names, and what `read` raises."""
    if not sections.base:
        return None
    found = sections.base_statement
    if not found:
        stored = split_manifest(read(sections.base))
        if stored.base:
            raise ManifestError(f"its base, generation {sections.base}, has a base itself")
        found = stored.statement
    if blake3(found).digest() != sections.statement[:_DIGEST]:
        raise ManifestError(
            f"generation {sections.base} is not the statement that this one was written against"
        )
    return Base(sections.base, found)


def compress(raw: bytes) -> bytes:
    return zstd.compress(raw, _LEVEL)


def compress_statement(raw: bytes, base: Base | None) -> bytes:
    if base is None:
        return compress(raw)
    before = decompress(base.statement)
    parameter = zstd.CompressionParameter
    # The window reaches back over all of the base.
    window = max(_MIN_WINDOW, min(_MAX_WINDOW, (len(before) + len(raw)).bit_length()))
    options: dict[int, int] = {
        parameter.compression_level: _LEVEL,
        parameter.window_log: window,
        parameter.content_size_flag: 1,
    }
    frame = zstd.compress(raw, options=options, zstd_dict=_reference(before))
    return blake3(base.statement).digest() + frame


def decompress_statement(sections: Sections, base: Base | None) -> bytes:
    """Raises ManifestError."""
    if base is None:
        return decompress(sections.statement)
    return decompress(sections.statement[_DIGEST:], decompress(base.statement))


def decompress(section: bytes, reference: bytes | None = None) -> bytes:
    """Raises ManifestError unless it is one frame of a size that it says."""
    try:
        # The declared size is checked before a byte is allocated for it.
        info = zstd.get_frame_info(section)
        if info.decompressed_size is None or info.decompressed_size > MAX_SECTION:
            raise ManifestError("a section does not say its size, or is too large")
        decompressor = zstd.ZstdDecompressor(
            zstd_dict=None if reference is None else _reference(reference),
            options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW},
        )
        raw: bytes = decompressor.decompress(section, max_length=info.decompressed_size)
    except zstd.ZstdError as error:
        raise ManifestError(f"a section is not a zstd frame: {error}") from error
    if not decompressor.eof or decompressor.unused_data or len(raw) != info.decompressed_size:
        raise ManifestError("a section is not exactly one zstd frame")
    return raw


def _reference(data: bytes) -> Any:
    try:
        return zstd.ZstdDict(data, is_raw=True).as_prefix
    except ValueError as error:  # under 8 bytes
        raise ManifestError("a statement of a few bytes is no base") from error
