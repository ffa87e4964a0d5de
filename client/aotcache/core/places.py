"""Places: where blobs lie, gathered from several manifests, for publishing and for pulling.

One definition of 'have this blob' serves both: a digest with a place in an accepted manifest (or in
the journal of an interrupted publish).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

import msgspec

from aotcache.errors import ManifestError
from aotcache.protocol.manifest import BlobPlace, Frame, Locations, Manifest, PackPlace


class Place(msgspec.Struct, frozen=True):
    """A blob: `size` bytes from `offset` of the decompressed bytes of `pack`."""

    pack: PackPlace
    offset: int
    size: int


class Places(msgspec.Struct):
    """Where each known digest lies. The first place that is added wins."""

    by_digest: dict[str, Place] = {}
    _starts: dict[str, list[int]] = {}

    def add(self, digest: str, place: Place) -> None:
        self.by_digest.setdefault(digest, place)

    def add_manifest(self, manifest: Manifest) -> None:
        locations = manifest.locations
        digests = [*manifest.statement.digests(), *locations.extra]
        for digest, blob in zip(digests, locations.blobs, strict=True):
            if blob.size:
                self.add(digest, Place(locations.packs[blob.pack], blob.offset, blob.size))

    def frames_of(self, place: Place) -> range:
        """Indices of the frames of its pack that a blob lies in."""
        starts = self._starts.get(place.pack.name)
        if starts is None:
            starts = [0, *accumulate(frame.raw for frame in place.pack.frames)]
            self._starts[place.pack.name] = starts
        first = bisect_right(starts, place.offset) - 1
        last = bisect_right(starts, place.offset + place.size - 1) - 1
        return range(first, last + 1)

    def prefixes_of(self, place: Place) -> set[str]:
        frames = place.pack.frames
        return {prefix for i in self.frames_of(place) if (prefix := frames[i].prefix)}

    def locations(self, digests: Iterable[str], sizes: dict[str, int]) -> Locations:
        """The locations section for a statement with these distinct digests, in this order."""
        wanted = list(digests)
        extra = sorted(
            {
                prefix
                for digest in wanted
                if sizes[digest]
                for prefix in self.prefixes_of(self.by_digest[digest])
            }
            - set(wanted)
        )
        packs: dict[str, int] = {}
        used: list[PackPlace] = []
        blobs = []
        for digest in [*wanted, *extra]:
            if sizes.get(digest) == 0:
                blobs.append(BlobPlace(0, 0, 0))
                continue
            place = self.by_digest[digest]
            number = packs.setdefault(place.pack.name, len(packs))
            if number == len(used):
                used.append(place.pack)
            blobs.append(BlobPlace(number, place.offset, place.size))
        return Locations(packs=tuple(used), blobs=tuple(blobs), extra=tuple(extra))


class PlacedFrame(msgspec.Struct, frozen=True):
    """A frame and where it lies: bytes [at, at + frame.stored) of the pack, `raw_at`
    decompressed."""

    frame: Frame
    at: int
    raw_at: int


class Job(msgspec.Struct, frozen=True):
    """Frames of one pack, in order, and the blobs they give: (digest, offset, size), in order."""

    pack: str
    frames: tuple[PlacedFrame, ...]
    blobs: tuple[tuple[str, int, int], ...]

    @property
    def stored(self) -> int:
        return sum(placed.frame.stored for placed in self.frames)


def plan_jobs(
    places: Places, digests: Iterable[str], stored_per_job: int, raw_per_job: int
) -> list[Job]:
    """Which frames to read for these blobs, cut into jobs that can run at once: no blob and no
    frame is in two jobs. stored_per_job, raw_per_job: bytes after which one is closed. Raises
    ManifestError when blobs overlap, or two manifests describe one pack differently.
    """
    by_pack: dict[str, list[tuple[int, int, str]]] = {}
    packs: dict[str, PackPlace] = {}
    for digest in dict.fromkeys(digests):
        place = places.by_digest[digest]
        if packs.setdefault(place.pack.name, place.pack) != place.pack:
            raise ManifestError(f"pack {place.pack.name[:12]} is described in two ways")
        by_pack.setdefault(place.pack.name, []).append((place.offset, place.size, digest))
    jobs = []
    for name, blobs in by_pack.items():
        jobs += _jobs_of_pack(places, packs[name], sorted(blobs), stored_per_job, raw_per_job)
    return jobs


def _jobs_of_pack(
    places: Places,
    pack: PackPlace,
    blobs: list[tuple[int, int, str]],
    stored_per_job: int,
    raw_per_job: int,
) -> list[Job]:
    at = [0, *accumulate(frame.stored for frame in pack.frames)]
    raw_at = [0, *accumulate(frame.raw for frame in pack.frames)]
    jobs: list[Job] = []
    frames: list[int] = []
    inside: list[tuple[str, int, int]] = []

    def close() -> None:
        placed = tuple(PlacedFrame(pack.frames[i], at[i], raw_at[i]) for i in frames)
        jobs.append(Job(pack.name, placed, tuple(inside)))
        frames.clear()
        inside.clear()

    end = 0
    for offset, size, digest in blobs:
        if offset < end:
            raise ManifestError(f"pack {pack.name[:12]}: blob {digest[:12]} overlaps another")
        end = offset + size
        needed = places.frames_of(Place(pack, offset, size))
        stored = sum(pack.frames[i].stored for i in frames)
        raw = sum(pack.frames[i].raw for i in frames)
        full = stored >= stored_per_job or raw >= raw_per_job
        if full and needed[0] > frames[-1]:
            close()
        frames += [i for i in needed if not frames or i > frames[-1]]
        inside.append((digest, offset, size))
    if inside:
        close()
    return jobs
