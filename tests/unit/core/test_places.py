import hashlib
from collections import Counter
from itertools import accumulate, pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotcache.core.places import Job, Place, Places, plan_jobs
from aotcache.errors import ManifestError
from aotcache.protocol.manifest import (
    PLAIN,
    BlobPlace,
    FileEntry,
    Frame,
    Locations,
    Manifest,
    PackPlace,
    decode_manifest,
    encode_manifest,
    encode_statement,
)
from support.stored import make_manifest


def digest(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def pack(number: int, frames: list[tuple[int, int]], prefix: str | None = None) -> PackPlace:
    return PackPlace(
        f"{digest(number)}-{'0' * 32}", tuple(Frame(stored, raw, prefix) for stored, raw in frames)
    )


@st.composite
def stored(draw: st.DrawFn) -> tuple[Places, list[str]]:
    """Packs of any frames, cut into blobs anywhere, some bytes belonging to none."""
    places, digests = Places(), []
    for number in range(draw(st.integers(1, 3))):
        frames = draw(
            st.lists(st.tuples(st.integers(1, 50), st.integers(1, 60)), min_size=1, max_size=8)
        )
        size = sum(raw for _, raw in frames)
        cuts = sorted(draw(st.sets(st.integers(0, size), max_size=12)) | {0, size})
        for start, end in pairwise(cuts):
            if draw(st.booleans()):
                name = digest((number, start))
                places.add(name, Place(pack(number, frames), start, end - start))
                digests.append(name)
    return places, digests


def covered(job: Job, pack_place: PackPlace) -> list[tuple[int, int]]:
    """Runs of the pack's decompressed bytes that a job gives, checking where its frames lie."""
    at = [0, *accumulate(frame.stored for frame in pack_place.frames)]
    raw_at = [0, *accumulate(frame.raw for frame in pack_place.frames)]
    runs = []
    for placed in job.frames:
        number = raw_at.index(placed.raw_at)
        assert placed.frame == pack_place.frames[number]
        assert placed.at == at[number]
        runs.append((placed.raw_at, placed.raw_at + placed.frame.raw))
    return runs


@given(what=stored(), limit=st.integers(1, 200), raw=st.integers(1, 1000), data=st.data())
def test_a_plan_has_each_blob_once_and_no_frame_twice(
    what: tuple[Places, list[str]], limit: int, raw: int, data: st.DataObject
) -> None:
    places, digests = what
    wanted = data.draw(st.lists(st.sampled_from(digests), unique=True)) if digests else []
    jobs = plan_jobs(places, wanted, limit, raw)
    assert Counter(blob for job in jobs for blob, _, _ in job.blobs) == Counter(wanted)
    frames = [(job.pack, placed.at) for job in jobs for placed in job.frames]
    assert len(frames) == len(set(frames))
    needed = set()
    for job in jobs:
        assert job.blobs
        assert job.stored == sum(placed.frame.stored for placed in job.frames)
        assert list(job.blobs) == sorted(job.blobs, key=lambda blob: blob[1])
        assert [placed.at for placed in job.frames] == sorted(placed.at for placed in job.frames)
        pack_place = places.by_digest[job.blobs[0][0]].pack
        assert job.pack == pack_place.name
        runs = covered(job, pack_place)
        for blob, offset, size in job.blobs:
            assert places.by_digest[blob] == Place(pack_place, offset, size)
            inside = [run for run in runs if run[0] < offset + size and offset < run[1]]
            assert inside[0][0] <= offset
            assert inside[-1][1] >= offset + size
            assert all(a[1] == b[0] for a, b in pairwise(inside))
            needed |= {(job.pack, run) for run in inside}
    assert len(needed) == len(frames)  # nothing is read that no blob needs


def test_jobs_are_cut_where_frames_are_not_shared() -> None:
    frames = [(10, 100)] * 4
    places = Places()
    for start, end in ((0, 100), (100, 250), (250, 300), (300, 400)):
        places.add(digest(start), Place(pack(1, frames), start, end - start))
    for stored, raw in ((10, 1_000), (1_000, 100)):
        jobs = plan_jobs(places, map(digest, (0, 100, 250, 300)), stored, raw)
        assert [[blob[1] for blob in job.blobs] for job in jobs] == [[0], [100, 250], [300]]
    (whole,) = plan_jobs(places, map(digest, (300, 250, 100, 0)), 1_000, 1_000)
    assert whole.stored == 40


def test_a_pack_that_is_described_in_two_ways_is_refused() -> None:
    places = Places()
    places.add(digest(1), Place(pack(1, [(10, 100)]), 0, 50))
    places.add(digest(2), Place(pack(1, [(10, 60), (1, 40)]), 50, 50))
    with pytest.raises(ManifestError, match="in two ways"):
        plan_jobs(places, [digest(1), digest(2)], 1, 1)


def test_blobs_that_overlap_are_refused() -> None:
    places = Places()
    places.add(digest(1), Place(pack(1, [(10, 100), (10, 100)]), 0, 200))
    places.add(digest(2), Place(pack(1, [(10, 100), (10, 100)]), 50, 100))
    with pytest.raises(ManifestError):
        plan_jobs(places, [digest(1), digest(2)], 1_000, 1_000)


@given(what=stored())
def test_frames_of_a_blob_are_those_that_cover_it(what: tuple[Places, list[str]]) -> None:
    places, digests = what
    for name in digests:
        place = places.by_digest[name]
        starts = [0, *accumulate(frame.raw for frame in place.pack.frames)]
        touched = [
            number
            for number in range(len(place.pack.frames))
            if starts[number] < place.offset + place.size and place.offset < starts[number + 1]
        ]
        assert list(places.frames_of(place)) == touched


def manifest_of(blobs: dict[str, int], locations: Locations) -> Manifest:
    """A manifest of one file a blob, through its bytes: so it is one that a reader accepts."""
    statement, _ = make_manifest()
    files = tuple(
        FileEntry(f"f{n:04}", size, PLAIN, name) for n, (name, size) in enumerate(blobs.items())
    )
    statement = msgspec.structs.replace(statement, files=files)
    return decode_manifest(encode_manifest(encode_statement(statement), locations, ()))


@given(what=stored())
def test_locations_are_read_as_they_were_written(what: tuple[Places, list[str]]) -> None:
    places, digests = what
    sizes = {name: places.by_digest[name].size for name in digests} | {digest("empty"): 0}
    locations = places.locations(sizes, sizes)
    assert locations.blobs[-1] == BlobPlace(0, 0, 0)
    assert len({one.name for one in locations.packs}) == len(locations.packs)
    assert {blob.pack for blob in locations.blobs if blob.size} == set(range(len(locations.packs)))
    again = Places()
    again.add_manifest(manifest_of(sizes, locations))
    assert again.by_digest == {name: places.by_digest[name] for name in digests}


def test_prefixes_are_placed_as_well_and_once() -> None:
    base, near, nearer = digest("base"), digest("near"), digest("nearer")
    places = Places()
    places.add(base, Place(pack(1, [(10, 100)]), 0, 100))
    for number, name in ((2, near), (3, nearer)):
        places.add(name, Place(pack(number, [(5, 90)], prefix=base), 0, 90))
    assert places.prefixes_of(places.by_digest[near]) == {base}
    assert places.prefixes_of(places.by_digest[base]) == set()

    rank_1 = places.locations([near, nearer], {near: 90, nearer: 90})
    assert rank_1.extra == (base,)
    assert rank_1.blobs[-1] == BlobPlace(2, 0, 100)
    both = places.locations([base, near], {base: 100, near: 90})
    assert both.extra == ()

    again = Places()
    again.add_manifest(manifest_of({near: 90, nearer: 90}, rank_1))
    assert again.by_digest == places.by_digest


def test_the_first_place_wins() -> None:
    places = Places()
    first, second = Place(pack(1, [(1, 9)]), 0, 9), Place(pack(2, [(1, 9)]), 0, 9)
    places.add(digest(1), first)
    places.add(digest(1), second)
    assert places.by_digest[digest(1)] is first
