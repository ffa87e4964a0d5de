"""What a node takes, counted before anything of it is fetched."""

from __future__ import annotations

import msgspec
import pytest

from aotcache.core.limits import MAX_BLOB, PREFIX_BYTES, Limits, limits_of
from aotcache.errors import ManifestError, UsageError
from aotcache.protocol.manifest import MAX_FRAME, BlobPlace, Frame, Manifest, PackPlace
from support.stored import make_manifest


def _against(*prefixes: str, size: int = MAX_FRAME) -> Manifest:
    """A part whose frames are compressed against these blobs, each by two of them."""
    statement, locations = make_manifest()
    frames = [Frame(10, 10, digest) for digest in prefixes for _ in range(2)]
    pack = PackPlace(locations.packs[0].name, (*locations.packs[0].frames, *frames))
    # Where they lie is another check's.
    blobs = (*locations.blobs, *(BlobPlace(0, 0, size) for _ in prefixes))
    locations = msgspec.structs.replace(locations, packs=(pack,), blobs=blobs, extra=prefixes)
    return Manifest(statement=statement, locations=locations, statement_bytes=b"", signatures=())


def test_all_prefixes_of_a_pull_are_counted_once() -> None:
    digests = [f"{number:064x}" for number in range(17)]
    parts = [_against(*digests[at : at + 8]) for at in (0, 4, 8)]
    Limits().check_prefixes(parts, "tree")
    Limits().check_prefixes([*parts, *parts], "tree")
    with pytest.raises(ManifestError, match=f"{17 << 26} bytes .* raise {PREFIX_BYTES}"):
        Limits().check_prefixes([*parts, _against(digests[16])], "tree")
    more = limits_of({PREFIX_BYTES: str(17 << 26)})
    more.check_prefixes([*parts, _against(digests[16])], "tree")


def test_what_no_frame_needs_is_not_counted() -> None:
    part = _against("0" * 64)
    frames = part.locations.packs[0].frames[:1]
    pack = PackPlace(part.locations.packs[0].name, frames)
    locations = msgspec.structs.replace(part.locations, packs=(pack,))
    Limits(prefix_bytes=0).check_prefixes([msgspec.structs.replace(part, locations=locations)], "t")


def test_a_file_is_no_larger_than_publishers_make_it() -> None:
    Limits().check(_against("0" * 64, size=MAX_BLOB), "tree")
    with pytest.raises(ManifestError, match=f"a file of {MAX_BLOB + 1} bytes"):
        Limits().check(_against("0" * 64, size=MAX_BLOB + 1), "tree")


def test_a_limit_that_is_no_number() -> None:
    for text in ("0", "-1", "1e9", "many", "9" * 30):
        with pytest.raises(UsageError, match=PREFIX_BYTES):
            limits_of({PREFIX_BYTES: text})
