from __future__ import annotations

import msgspec

from aotcache.protocol.manifest import BlobPlace, FileEntry, Frame, Locations, PackPlace
from aotcache_service.index.frames import frames_of
from support.stored import make_manifest

NAMES = [f"{letter * 64}-{'0' * 32}" for letter in "ab"]
FRAMES = (Frame(10, 100), Frame(20, 100), Frame(30, 100))


def test_frames_that_hold_files() -> None:
    statement, _ = make_manifest()
    sizes = {"one": 100, "over": 101, "empty": 0}
    files = tuple(
        FileEntry(name, size, 0o644, f"{number:064x}")
        for number, (name, size) in enumerate(sizes.items())
    )
    statement = msgspec.structs.replace(statement, files=files)
    locations = Locations(
        packs=(PackPlace(NAMES[0], FRAMES), PackPlace(NAMES[1], FRAMES)),
        blobs=(
            BlobPlace(0, 0, 100),  # exactly the first frame
            BlobPlace(0, 199, 101),  # the last byte of the second, and the third
            BlobPlace(0, 0, 0),  # nothing
            BlobPlace(1, 0, 300),  # only a prefix: another tree's bytes
        ),
        extra=("f" * 64,),
    )
    assert frames_of(statement, locations) == {
        NAMES[0]: [[0, 10], [10, 20], [30, 30]],
        NAMES[1]: [],
    }
