"""Bounds on what a node takes, whoever signed it: checked before anything is allocated or written.

The format has bounds of its own (docs/format.md), which nothing raises; these are the operator's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from aotcache.errors import ManifestError, UsageError
from aotcache.protocol.manifest import MAX_FILES, MAX_FRAME, Manifest
from aotcache.protocol.sections import MAX_MANIFEST

MANIFEST_BYTES = "AOTCACHE_MAX_MANIFEST_BYTES"
FILES = "AOTCACHE_MAX_FILES"
TREE_BYTES = "AOTCACHE_MAX_TREE_BYTES"
RATIO = "AOTCACHE_MAX_RATIO"
RANGE_BYTES = "AOTCACHE_MAX_RANGE_BYTES"
PREFIX_BYTES = "AOTCACHE_MAX_PREFIX_BYTES"

MAX_BLOB = 96 << 20  # bytes of a blob before compression: no publisher makes a larger one


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Of one part, but for the last. tree_bytes: of all its files. ratio: bytes of its frames after
    decompression by those before; a rank's `model` that is stored against another's reaches two
    thousand. range_bytes: that one frame takes as stored, and so one request. prefix_bytes: of all
    blobs that the frames of one pull are compressed against, as all may be in memory at once."""

    manifest_bytes: int = MAX_MANIFEST
    files: int = MAX_FILES
    tree_bytes: int = 64 << 30
    ratio: int = 20_000
    range_bytes: int = 2 * MAX_FRAME
    prefix_bytes: int = 1 << 30

    def check_size(self, data: bytes, what: str) -> None:
        """Before a manifest is read. Raises ManifestError."""
        _check(len(data), self.manifest_bytes, "bytes of manifest", MANIFEST_BYTES, what)

    def check(self, manifest: Manifest, what: str) -> None:
        """Before anything of its files is. Raises ManifestError."""
        files = manifest.statement.files
        frames = [frame for pack in manifest.locations.packs for frame in pack.frames]
        stored = sum(frame.stored for frame in frames)
        ratio = sum(frame.raw for frame in frames) // max(1, stored)
        _check(len(files), self.files, "files", FILES, what)
        _check(sum(e.size for e in files), self.tree_bytes, "bytes of files", TREE_BYTES, what)
        _check(ratio, self.ratio, "times its stored bytes", RATIO, what)
        largest = max((frame.stored for frame in frames), default=0)
        _check(largest, self.range_bytes, "bytes in a frame", RANGE_BYTES, what)
        blob = max((place.size for place in manifest.locations.blobs), default=0)
        if blob > MAX_BLOB:
            raise ManifestError(
                f"{what} has a file of {blob} bytes, and {MAX_BLOB} is the most that any publisher "
                "stores: it was left alone; find out who wrote it"
            )

    def check_prefixes(self, manifests: Iterable[Manifest], what: str) -> None:
        """Before anything that these list is fetched. Raises ManifestError."""
        sizes: dict[str, int] = {}
        for manifest in manifests:
            places = manifest.locations
            needed = {frame.prefix for pack in places.packs for frame in pack.frames}
            digests = [*manifest.statement.digests(), *places.extra]
            sizes |= {
                digest: place.size
                for digest, place in zip(digests, places.blobs, strict=True)
                if digest in needed
            }
        found = sum(sizes.values())
        _check(found, self.prefix_bytes, "bytes to read others against", PREFIX_BYTES, what)


def _check(found: int, most: int, unit: str, setting: str, what: str) -> None:
    if found > most:
        raise ManifestError(
            f"{what} has {found} {unit}, and this node takes {most}: it was left alone; if that is "
            f"right, raise {setting}"
        )


def limits_of(environ: Mapping[str, str]) -> Limits:
    """Raises UsageError for a limit that is no number."""
    named = {
        "manifest_bytes": MANIFEST_BYTES,
        "files": FILES,
        "tree_bytes": TREE_BYTES,
        "ratio": RATIO,
        "range_bytes": RANGE_BYTES,
        "prefix_bytes": PREFIX_BYTES,
    }
    found: dict[str, int] = {}
    for field, variable in named.items():
        if text := environ.get(variable):
            if not text.isdecimal() or not 0 < int(text) < 1 << 60:
                raise UsageError(f"{variable}={text!r} is not a number above 0")
            found[field] = int(text)
    return Limits(**found)
