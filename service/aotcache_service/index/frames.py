"""Which frames of which packs hold a part's files: what the part costs in storage."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from aotcache.protocol.manifest import Locations, Statement

PackFrames = dict[str, list[list[int]]]


def frames_of(statement: Statement, locations: Locations) -> PackFrames:
    """By pack name, [offset in the pack, stored bytes] of each frame that holds a file's bytes.

    Every pack of the manifest is a key, also one that only serves as a prefix. Both arguments have
    passed `decode_manifest`, so every place lies inside its pack.
    """
    ends = [list(accumulate(frame.raw for frame in pack.frames)) for pack in locations.packs]
    used: list[set[int]] = [set() for _ in locations.packs]
    # Places of `extra` digests follow those of the files: they are other trees' bytes.
    for place in locations.blobs[: len(statement.digests())]:
        if place.size:
            first = bisect_right(ends[place.pack], place.offset)
            last = bisect_right(ends[place.pack], place.offset + place.size - 1)
            used[place.pack].update(range(first, last + 1))
    found: PackFrames = {}
    for pack, numbers in zip(locations.packs, used, strict=True):
        offset = 0
        frames = found.setdefault(pack.name, [])
        for number, frame in enumerate(pack.frames):
            if number in numbers:
                frames.append([offset, frame.stored])
            offset += frame.stored
    return found
