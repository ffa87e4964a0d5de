"""The manifest: the immutable, signed list of one generation of a part's files (docs/format.md).

The statement says what is stored, the locations where its bytes lie.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from aotcache.errors import FormatError, InvalidNameError, ManifestError, UsageError
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.names import (
    TreeKey,
    check_generation,
    check_pack,
    check_part,
    check_parts,
    check_publish_id,
)
from aotcache.protocol.paths import check_paths
from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import MAX_TREES_USED, TreeUsed, check_factors
from aotcache.protocol.sections import (
    Base,
    ReadBase,
    Sections,
    Signature,
    Size,
    base_of,
    compress,
    compress_statement,
    decompress,
    decompress_statement,
    join_sections,
    no_base,
    split_manifest,
)

MAX_FILES = 500_000
# Of a section, before what they stand for is made: a byte or two of JSON can become a hundred.
_MAX_ARRAYS, _MAX_TEXTS = 3 * MAX_FILES, 4 * MAX_FILES
MAX_FRAME = 64 << 20  # bytes of a frame after decompression; also of a prefix blob
MAX_PUBLISHER = 255  # characters
MIN_PREFIX = 8  # bytes that a frame refers to, at the least: zstd takes no fewer

Index = Annotated[int, msgspec.Meta(ge=0)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

PLAIN, EXECUTABLE = 0o644, 0o755
NOT_RELOCATED, BY_DIRECTORY, BY_TREE = "", "dir", "tree"
_MODES, _RELOCATIONS = (PLAIN, EXECUTABLE), (NOT_RELOCATED, BY_DIRECTORY, BY_TREE)


class FileEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
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


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
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


class BlobPlace(msgspec.Struct, frozen=True, array_like=True, gc=False):
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


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest taken apart. `statement_bytes` is what the signatures cover."""

    statement: Statement
    locations: Locations
    statement_bytes: bytes
    signatures: tuple[Signature, ...]
    base: Base | None = None


def encode_statement(statement: Statement, base: Base | None = None) -> bytes:
    """The statement section. base: what it is written against."""
    return compress_statement(msgspec.json.encode(statement), base)


def encode_manifest(
    statement_bytes: bytes,
    locations: Locations,
    signatures: tuple[Signature, ...],
    base: Base | None = None,
    *,
    whole: bool = False,
) -> bytes:
    """base: what the statement was encoded against. whole: with the base in it, as a node keeps it,
    to be read without storage."""
    return join_sections(
        Sections(
            statement=statement_bytes,
            locations=compress(msgspec.json.encode(locations)),
            signatures=signatures,
            base=base.generation if base else 0,
            base_statement=base.statement if base and whole else b"",
        )
    )


def encode_whole(manifest: Manifest) -> bytes:
    """As a node keeps it."""
    return encode_manifest(
        manifest.statement_bytes,
        manifest.locations,
        manifest.signatures,
        manifest.base,
        whole=True,
    )


def decode_manifest(data: bytes, read: ReadBase = no_base) -> Manifest:
    """Take a manifest apart and check every rule of the format but the signatures.

    read: gives the manifest of an earlier generation of the part, where this one's statement is
    written against it. Raises ManifestError, and what `read` raises, for bytes of any kind.
    """
    sections = split_manifest(data)
    base = base_of(sections, read)
    try:
        statement = decode_json(_bounded(decompress_statement(sections, base)), Statement)
        locations = decode_json(_bounded(decompress(sections.locations)), Locations)
    except FormatError as error:
        raise ManifestError(f"bad section: {error}") from error
    try:
        _check_statement(statement)
        if base and base.generation >= statement.generation:
            raise ManifestError(f"it is written against generation {base.generation}, a later one")
        _check_locations(statement, locations)
    except (InvalidNameError, UsageError) as error:
        raise ManifestError(str(error)) from error
    return Manifest(
        statement=statement,
        locations=locations,
        statement_bytes=sections.statement,
        signatures=sections.signatures,
        base=base,
    )


def _bounded(section: bytes) -> bytes:
    """Raises ManifestError for more arrays or texts than any part has."""
    if section.count(b"[") > _MAX_ARRAYS or section.count(b'"') > 2 * _MAX_TEXTS:
        raise ManifestError(f"it holds more than can be said of {MAX_FILES} files")
    return section


def _check_statement(statement: Statement) -> None:
    check_part(statement.part)
    check_generation(statement.generation)
    check_publish_id(statement.publish_id)
    check_parts(statement.expected_parts)
    check_factors(statement.hash_factors)
    check_factors(statement.notes)
    if len(statement.publisher) > MAX_PUBLISHER or not statement.publisher.isprintable():
        raise ManifestError(f"a publisher's name is at most {MAX_PUBLISHER} printable characters")
    _ = statement.tree
    if len(statement.trees) > MAX_TREES_USED:
        raise ManifestError(
            f"a manifest names at most {MAX_TREES_USED} trees, not {len(statement.trees)}"
        )
    if not 1 <= len(statement.files) <= MAX_FILES:
        raise ManifestError(f"a manifest lists 1 to {MAX_FILES} files, not {len(statement.files)}")
    # Not one by one, while nothing is wrong: there may be a million.
    modes = {entry.mode for entry in statement.files}
    relocations = {entry.relocate for entry in statement.files}
    sizes = {entry.digest: entry.size for entry in statement.files}
    known = modes <= {*_MODES} and relocations <= {*_RELOCATIONS}
    if not known or any(sizes[entry.digest] != entry.size for entry in statement.files):
        _refuse_files(statement)
    check_paths([entry.path for entry in statement.files])


def _refuse_files(statement: Statement) -> None:
    """Say which of its files is wrong, and how."""
    sizes: dict[str, int] = {}
    for entry in statement.files:
        if entry.mode not in _MODES:
            raise ManifestError(f"{entry.path[:200]!r}: mode {entry.mode:o} is neither 644 nor 755")
        if entry.relocate not in _RELOCATIONS:
            raise ManifestError(f"{entry.path[:200]!r}: unknown relocation {entry.relocate[:20]!r}")
        if sizes.setdefault(entry.digest, entry.size) != entry.size:
            raise ManifestError(f"{entry.path[:200]!r}: one digest with two sizes")


def _check_locations(statement: Statement, locations: Locations) -> None:
    sizes = {entry.digest: entry.size for entry in statement.files}
    digests = [*statement.digests(), *locations.extra]
    if len(set(digests)) != len(digests) or len(digests) != len(locations.blobs):
        raise ManifestError("the places do not match the digests")
    prefixes = {d: place.size for d, place in zip(digests, locations.blobs, strict=True)}
    ends = []
    known = set(digests)
    lost: list[list[tuple[int, int]]] = []  # by pack
    for pack in locations.packs:
        check_pack(pack.name)
        _check_frames(pack, prefixes)
        ends.append(sum(frame.raw for frame in pack.frames))
        lost.append(_lost(pack, known))
    for digest, place in zip(digests, locations.blobs, strict=True):
        if place.size and (place.pack >= len(ends) or place.offset + place.size > ends[place.pack]):
            raise ManifestError(f"blob {digest[:12]} lies outside its pack")
        if sizes.get(digest, place.size) != place.size:
            raise ManifestError(f"blob {digest[:12]} has another size than its file")
        end = place.offset + place.size
        if place.size and any(a < end and place.offset < b for a, b in lost[place.pack]):
            raise ManifestError(f"blob {digest[:12]} needs a prefix that has no place")


def _lost(pack: PackPlace, known: set[str]) -> list[tuple[int, int]]:
    """Decompressed bytes whose frames need a prefix that is not known; neighbours as one run."""
    runs: list[tuple[int, int]] = []
    end = 0
    for frame in pack.frames:
        start, end = end, end + frame.raw
        if frame.prefix is not None and frame.prefix not in known:
            if runs and runs[-1][1] == start:
                start, _ = runs.pop()
            runs.append((start, end))
    return runs


def _check_frames(pack: PackPlace, sizes: dict[str, int]) -> None:
    """sizes: of the blobs that this manifest places; a prefix may lie elsewhere."""
    for frame in pack.frames:
        # zstd makes what does not compress a little longer.
        if not 0 < frame.raw <= MAX_FRAME or not 0 < frame.stored <= frame.raw + _longer(frame.raw):
            raise ManifestError(f"pack {pack.name[:12]}: a frame that is empty or too large")
        if frame.prefix is None or (frame.start, frame.length) == (0, 0):
            continue
        end = frame.start + frame.length
        if frame.length < MIN_PREFIX or end > sizes.get(frame.prefix, MAX_FRAME):
            raise ManifestError(
                f"pack {pack.name[:12]}: a frame refers to bytes that its prefix does not have"
            )


def _longer(raw: int) -> int:
    """ZSTD_compressBound's, and a header."""
    return (raw >> 8) + 512
