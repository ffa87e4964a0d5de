"""The manifest: the immutable, signed list of one generation of a part's files (docs/format.md).

header     one line of JSON: format, sizes of the two sections, signatures
statement  zstd frame of JSON: what is stored. Signed, as the compressed bytes.
locations  zstd frame of JSON: where the bytes lie. Not signed: a digest guards every file, and a
           collector may move bytes to other packs without holding a key.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated

import msgspec

from aotcache.errors import FormatError, InvalidNameError, ManifestError
from aotcache.protocol.compression import zstd
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.names import (
    TreeKey,
    check_generation,
    check_pack,
    check_part,
    check_publish_id,
)
from aotcache.protocol.paths import check_paths
from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import MAX_TREES_USED, TreeUsed

FORMAT = "aotcache-manifest/1"
STATEMENT_TYPE = "application/vnd.aotcache.statement.v1+json+zstd"

MAX_HEADER = 64 << 10
MAX_MANIFEST = 64 << 20  # bytes of a stored manifest object
MAX_SECTION = 256 << 20  # bytes of a section after decompression
MAX_FILES = 500_000
MAX_FRAME = 64 << 20  # bytes of a frame after decompression; also of a prefix blob
MIN_PREFIX = 8  # bytes that a frame refers to, at the least: zstd takes no fewer

Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Index = Annotated[int, msgspec.Meta(ge=0)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

PLAIN, EXECUTABLE = 0o644, 0o755
NOT_RELOCATED, BY_DIRECTORY, BY_TREE = "", "dir", "tree"


class FileEntry(msgspec.Struct, frozen=True, array_like=True):
    """One file: size and BLAKE3 digest are those of its location-free bytes.

    relocate: `` the bytes are installed as they are; `dir` / `tree`: marks in them are replaced by
    the path of the file's own directory / of the tree (core.relocation).
    """

    path: str
    size: Size
    mode: int
    digest: Digest
    relocate: str = NOT_RELOCATED


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored, and what the publisher knew. Times are Unix seconds, durations seconds.

    trees: those that the starts which wrote this part used, its own included; empty: not known.
    """

    namespace: str
    layout: str
    hash: str
    platform: Platform
    part: str
    generation: int
    publish_id: str
    created: int
    publisher: str = ""
    recipe: Recipe | None = None
    expected_parts: tuple[str, ...] = ()
    compile_seconds: float | None = None
    hash_factors: dict[str, str] = {}
    notes: dict[str, str] = {}
    trees: tuple[TreeUsed, ...] = ()
    files: tuple[FileEntry, ...]

    @property
    def tree(self) -> TreeKey:
        return TreeKey(
            namespace=self.namespace,
            layout=self.layout,
            hash=self.hash,
            platform=self.platform.id,
        )

    def digests(self) -> list[str]:
        """The distinct digests in order of first appearance: the order of `Locations.blobs`."""
        return list(dict.fromkeys(entry.digest for entry in self.files))


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One zstd frame of a pack: bytes as stored, bytes after decompression.

    prefix: digest of a blob, or None. The frame was compressed against its bytes [start, start +
    length) (zstd's reference prefix), all of them where length is 0. A prefix blob never lies in a
    frame that has one itself.
    """

    stored: Size
    raw: Size
    prefix: Digest | None = None
    start: Size = 0
    length: Size = 0


class PackPlace(msgspec.Struct, frozen=True):
    """A pack: the concatenation of `frames`. `name` is `{sha256}-{publish id}`."""

    name: str
    frames: tuple[Frame, ...]

    @property
    def size(self) -> int:
        return sum(frame.stored for frame in self.frames)


class BlobPlace(msgspec.Struct, frozen=True, array_like=True):
    """A blob lies in pack number `pack`, from byte `offset` of the pack's decompressed bytes.

    A blob of zero bytes lies nowhere: pack 0, offset 0, even where there are no packs.
    """

    pack: Index
    offset: Size
    size: Size


class Locations(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bytes lie: a place for each of the statement's distinct digests, then for `extra`,
    digests that only serve as prefixes."""

    packs: tuple[PackPlace, ...]
    blobs: tuple[BlobPlace, ...]
    extra: tuple[Digest, ...] = ()


class Signature(msgspec.Struct, frozen=True):
    """`key`: key id, 32 hex characters. `sig`: Ed25519 over `signed_message`."""

    key: str
    sig: bytes


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    statement: Size
    locations: Size
    signatures: tuple[Signature, ...] = ()


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest taken apart. `statement_bytes` is what the signatures cover."""

    statement: Statement
    locations: Locations
    statement_bytes: bytes
    signatures: tuple[Signature, ...]


def signed_message(statement_bytes: bytes) -> bytes:
    """DSSE v1 pre-authentication encoding of the statement section
    (https://github.com/secure-systems-lab/dsse/blob/master/protocol.md)."""
    kind = STATEMENT_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(statement_bytes), statement_bytes)


def encode_statement(statement: Statement) -> bytes:
    return zstd.compress(msgspec.json.encode(statement), 9)


def encode_manifest(
    statement_bytes: bytes, locations: Locations, signatures: tuple[Signature, ...]
) -> bytes:
    locations_bytes = zstd.compress(msgspec.json.encode(locations), 9)
    header = _Header(
        format=FORMAT,
        statement=len(statement_bytes),
        locations=len(locations_bytes),
        signatures=signatures,
    )
    return msgspec.json.encode(header) + b"\n" + statement_bytes + locations_bytes


def split_manifest(data: bytes) -> tuple[bytes, bytes, tuple[Signature, ...]]:
    """Statement bytes, locations bytes, signatures: what can be had before anything is trusted."""
    if len(data) > MAX_MANIFEST:
        raise ManifestError(f"a manifest has at most {MAX_MANIFEST} bytes, this has {len(data)}")
    end = data.find(b"\n", 0, MAX_HEADER)
    if end < 0:
        raise ManifestError("no header line")
    try:
        header = decode_json(data[:end], _Header)
    except FormatError as error:
        raise ManifestError(f"bad header: {error}") from error
    if header.format != FORMAT:
        raise ManifestError(f"format {header.format[:40]!r}; this aotcache reads {FORMAT}: upgrade")
    start, middle = end + 1, end + 1 + header.statement
    if middle + header.locations != len(data):
        raise ManifestError("the sections' sizes do not add up to the object's")
    return data[start:middle], data[middle:], header.signatures


def decode_manifest(data: bytes) -> Manifest:
    """Take a manifest apart and check every rule of the format but the signatures.

    Raises ManifestError, and nothing else, for bytes of any kind.
    """
    statement_bytes, locations_bytes, signatures = split_manifest(data)
    sections = _decompress(statement_bytes), _decompress(locations_bytes)
    try:
        statement = decode_json(sections[0], Statement)
        locations = decode_json(sections[1], Locations)
    except FormatError as error:
        raise ManifestError(f"bad section: {error}") from error
    try:
        _check_statement(statement)
        _check_locations(statement, locations)
    except InvalidNameError as error:
        raise ManifestError(str(error)) from error
    return Manifest(
        statement=statement,
        locations=locations,
        statement_bytes=statement_bytes,
        signatures=signatures,
    )


def _decompress(section: bytes) -> bytes:
    try:
        # The declared size is checked before a byte is allocated for it.
        info = zstd.get_frame_info(section)
        if info.decompressed_size is None or info.decompressed_size > MAX_SECTION:
            raise ManifestError("a section does not say its size, or is too large")
        decompressor = zstd.ZstdDecompressor()
        raw: bytes = decompressor.decompress(section, max_length=info.decompressed_size)
    except zstd.ZstdError as error:
        raise ManifestError(f"a section is not a zstd frame: {error}") from error
    if not decompressor.eof or decompressor.unused_data or len(raw) != info.decompressed_size:
        raise ManifestError("a section is not exactly one zstd frame")
    return raw


def _check_statement(statement: Statement) -> None:
    check_part(statement.part)
    check_generation(statement.generation)
    check_publish_id(statement.publish_id)
    for part in statement.expected_parts:
        check_part(part)
    _ = statement.tree
    if len(statement.trees) > MAX_TREES_USED:
        raise ManifestError(
            f"a manifest names at most {MAX_TREES_USED} trees, not {len(statement.trees)}"
        )
    if not 1 <= len(statement.files) <= MAX_FILES:
        raise ManifestError(f"a manifest lists 1 to {MAX_FILES} files, not {len(statement.files)}")
    sizes: dict[str, int] = {}
    for entry in statement.files:
        if entry.mode not in (PLAIN, EXECUTABLE):
            raise ManifestError(f"{entry.path[:200]!r}: mode {entry.mode:o} is neither 644 nor 755")
        if entry.relocate not in (NOT_RELOCATED, BY_DIRECTORY, BY_TREE):
            raise ManifestError(f"{entry.path[:200]!r}: unknown relocation {entry.relocate[:20]!r}")
        if sizes.setdefault(entry.digest, entry.size) != entry.size:
            raise ManifestError(f"{entry.path[:200]!r}: one digest with two sizes")
    check_paths(entry.path for entry in statement.files)


def _check_locations(statement: Statement, locations: Locations) -> None:
    sizes = {entry.digest: entry.size for entry in statement.files}
    digests = [*statement.digests(), *locations.extra]
    if len(set(digests)) != len(digests) or len(digests) != len(locations.blobs):
        raise ManifestError("the places do not match the digests")
    prefixes = {d: place.size for d, place in zip(digests, locations.blobs, strict=True)}
    ends = []
    known = set(digests)
    lost: list[list[tuple[int, int]]] = []  # by pack: raw bytes that need a prefix with no place
    for pack in locations.packs:
        check_pack(pack.name)
        _check_frames(pack, prefixes)
        starts = [0, *accumulate(frame.raw for frame in pack.frames)]
        ends.append(starts[-1])
        lost.append(
            [
                (start, start + frame.raw)
                for start, frame in zip(starts, pack.frames, strict=False)
                if frame.prefix is not None and frame.prefix not in known
            ]
        )
    for digest, place in zip(digests, locations.blobs, strict=True):
        if place.size and (place.pack >= len(ends) or place.offset + place.size > ends[place.pack]):
            raise ManifestError(f"blob {digest[:12]} lies outside its pack")
        if sizes.get(digest, place.size) != place.size:
            raise ManifestError(f"blob {digest[:12]} has another size than its file")
        end = place.offset + place.size
        if place.size and any(a < end and place.offset < b for a, b in lost[place.pack]):
            raise ManifestError(f"blob {digest[:12]} needs a prefix that has no place")


def _check_frames(pack: PackPlace, sizes: dict[str, int]) -> None:
    """sizes: of the blobs that this manifest places; a prefix may lie elsewhere."""
    for frame in pack.frames:
        if frame.stored == 0 or not 0 < frame.raw <= MAX_FRAME:
            raise ManifestError(f"pack {pack.name[:12]}: a frame that is empty or too large")
        if frame.prefix is None or (frame.start, frame.length) == (0, 0):
            continue
        end = frame.start + frame.length
        if frame.length < MIN_PREFIX or end > sizes.get(frame.prefix, MAX_FRAME):
            raise ManifestError(
                f"pack {pack.name[:12]}: a frame refers to bytes that its prefix does not have"
            )
