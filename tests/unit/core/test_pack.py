import contextlib
import hashlib
from collections.abc import Iterable
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aotcache.core import framing
from aotcache.core import pack as pack_module
from aotcache.core.framing import Prefix, Source, digest_of, in_pieces
from aotcache.core.limits import MAX_BLOB
from aotcache.core.pack import PIECE, BuiltPack, build_packs, compress
from aotcache.errors import NotSettledError, PackError
from aotcache.protocol.manifest import Frame
from aotcache.protocol.names import check_pack

PUBLISH_ID = "ab" * 16


def decompress(stored: bytes, frame: Frame, prefix: bytes | None = None) -> bytes:
    pieces = list(pack_module.decompress(stored, frame, Prefix(prefix) if prefix else None))
    assert all(0 < len(piece) <= PIECE for piece in pieces)
    return b"".join(pieces)


def noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress."""
    return hashlib.shake_256(b"%d" % seed).digest(size)


def source(
    data: bytes, group: tuple[str, ...] = ("shared",), prefix: bytes | None = None
) -> Source:
    return Source(
        digest_of(data),
        len(data),
        group,
        "a file",
        lambda: in_pieces(data),
        None if prefix is None else (digest_of(prefix), lambda: prefix),
    )


def contents(sources: Iterable[Source]) -> dict[str, bytes]:
    return {one.digest: b"".join(one.read()) for one in sources}


def read_back(packs: Iterable[BuiltPack], prefixes: dict[str, bytes]) -> dict[str, bytes]:
    """All blobs of the packs, read as a reader does: by the frames that cover them."""
    found = {}
    for pack in packs:
        check_pack(pack.place.name)
        assert pack.place.name == f"{hashlib.sha256(pack.data).hexdigest()}-{PUBLISH_ID}"
        assert pack.place.size == len(pack.data)
        ends = list(accumulate(frame.stored for frame in pack.place.frames))
        raw = b"".join(
            decompress(pack.data[end - frame.stored : end], frame, prefixes.get(frame.prefix or ""))
            for frame, end in zip(pack.place.frames, ends, strict=True)
        )
        for digest, (offset, size) in pack.blobs.items():
            assert digest not in found
            found[digest] = raw[offset : offset + size]
            assert len(found[digest]) == size
    return found


BLOBS = st.lists(
    st.tuples(st.integers(1, 5_000), st.sampled_from([("a",), ("b",), ("a", "b")])), max_size=12
)


@settings(deadline=None)
@given(blobs=BLOBS)
def test_blobs_round_trip_and_groups_share_no_frame(
    blobs: list[tuple[int, tuple[str, ...]]],
) -> None:
    with pytest.MonkeyPatch.context() as small:
        small.setattr(framing, "FRAME_RAW", 2_000)
        small.setattr(pack_module, "FRAME_RAW", 2_000)
        small.setattr(pack_module, "PACK_STORED", 6_000)
        sources = [source(noise(n, size), group) for n, (size, group) in enumerate(blobs)]
        packs = list(build_packs(sources, PUBLISH_ID))
    found = read_back(packs, {})
    assert found == contents(sources)
    groups = {one.digest: one.group for one in sources}
    for pack in packs:
        assert all(0 < frame.raw <= 2_000 + 4_999 for frame in pack.place.frames)
        starts = [0, *accumulate(frame.raw for frame in pack.place.frames)]
        for begin, end in pairwise(starts):
            inside = {
                groups[digest]
                for digest, (offset, size) in pack.blobs.items()
                if offset < end and begin < offset + size
            }
            assert len(inside) == 1
    # All packs but the last are full, and no blob lies in two.
    assert all(len(pack.data) >= 6_000 for pack in packs[:-1])


def test_no_blobs_make_no_pack() -> None:
    assert list(build_packs([], PUBLISH_ID)) == []


def test_a_large_blob_crosses_frames_of_bounded_size() -> None:
    data = noise(1, 1_000) * 9_000
    (pack,) = build_packs([source(data), source(b"small")], PUBLISH_ID)
    assert [frame.raw for frame in pack.place.frames] == [
        4 << 20,
        4 << 20,
        len(data) - (8 << 20),
        5,
    ]
    assert read_back([pack], {}) == {digest_of(data): data, digest_of(b"small"): b"small"}


def test_a_blob_with_a_prefix_has_a_frame_of_its_own() -> None:
    base = noise(1, 100_000)
    near = base[:50_000] + b"changed" + base[50_000:]
    sources = [source(base), source(near, prefix=base), source(b"after")]
    (pack,) = build_packs(sources, PUBLISH_ID)
    frames = pack.place.frames
    assert [frame.prefix for frame in frames] == [None, digest_of(base), None]
    assert frames[1].stored < 1_000
    assert read_back([pack], {digest_of(base): base}) == {
        one.digest: b"".join(one.read()) for one in sources
    }


def test_a_prefix_that_cannot_be_read_is_done_without() -> None:
    near = Source(
        digest_of(b"near"), 4, ("shared",), "a file", lambda: [b"near"], ("0", lambda: None)
    )
    (pack,) = build_packs([source(b"before"), near], PUBLISH_ID)
    assert all(frame.prefix is None for frame in pack.place.frames)
    assert read_back([pack], {})[near.digest] == b"near"


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 30_000), max_size=12))
def test_a_pack_is_closed_before_it_is_too_large(sizes: list[int]) -> None:
    with pytest.MonkeyPatch.context() as small:
        small.setattr(framing, "FRAME_RAW", 2_000)
        small.setattr(pack_module, "FRAME_RAW", 2_000)
        small.setattr(pack_module, "PACK_STORED", 10_000)
        small.setattr(pack_module, "PACK_LIMIT", 32_000)  # the largest blob, and a frame
        sources = [source(noise(n, size)) for n, size in enumerate(sizes)]
        packs = list(build_packs(sources, PUBLISH_ID))
    # zstd's own bytes: some for each frame.
    assert all(len(pack.data) <= 32_000 + 20 * len(pack.place.frames) for pack in packs)
    assert read_back(packs, {}) == contents(sources)


def test_the_largest_blob_behind_a_frame_of_others_is_within_the_limit() -> None:
    assert pack_module.FRAME_RAW + MAX_BLOB < pack_module.PACK_LIMIT < 128 << 20


def test_a_large_blob_refers_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "FRAME_RAW", 20_000)
    monkeypatch.setattr(pack_module, "FRAME_RAW", 20_000)
    monkeypatch.setattr(framing, "_SLACK", 1_000)
    base = noise(1, 100_000)
    near = base[:30_000] + noise(2, 500) + base[30_000:]
    (pack,) = build_packs([source(base), source(near, prefix=base)], PUBLISH_ID)
    pieces = [frame for frame in pack.place.frames if frame.prefix]
    assert [frame.raw for frame in pieces] == [20_000] * 5 + [500]
    assert all(frame.length <= 20_000 + 2 * 1_000 + 500 for frame in pieces)
    assert sum(frame.stored for frame in pieces) < 2_000
    assert read_back([pack], {digest_of(base): base})[digest_of(near)] == near


@settings(deadline=None)
@given(data=st.data(), base=st.binary(min_size=8, max_size=3_000), more=st.binary(max_size=300))
def test_whatever_differs_a_blob_comes_back(data: st.DataObject, base: bytes, more: bytes) -> None:
    cut = data.draw(st.integers(0, len(base)))
    near = data.draw(st.sampled_from([base[:cut] + more + base[cut:], base[cut:] + more, more]))
    with pytest.MonkeyPatch.context() as small:
        small.setattr(framing, "FRAME_RAW", 500)
        small.setattr(pack_module, "FRAME_RAW", 500)
        small.setattr(framing, "_SLACK", 50)
        sources = [source(base), source(near, prefix=base)] if near else [source(base)]
        packs = list(build_packs(sources, PUBLISH_ID))
    if near and near != base:
        assert read_back(packs, {digest_of(base): base})[digest_of(near)] == near


@pytest.mark.parametrize(("start", "length"), [(0, 101), (95, 6), (101, 8), (0, 7)])
def test_bytes_that_a_prefix_does_not_have(start: int, length: int) -> None:
    stored = compress(b"x" * 100)
    with pytest.raises(PackError):
        decompress(stored, Frame(len(stored), 100, "0" * 64, start, length), noise(1, 100))


@pytest.mark.parametrize("now", [b"other", b"longer than before", b""])
def test_a_file_that_changes_meanwhile_stops_the_publish(now: bytes) -> None:
    changed = Source(digest_of(b"first"), 5, ("shared",), "/tree/file", lambda: [now])
    with pytest.raises(NotSettledError, match="/tree/file changed"):
        list(build_packs([source(b"fine"), changed], PUBLISH_ID))


@settings(deadline=None)
@given(data=st.binary(min_size=1, max_size=4_000), prefix=st.binary(min_size=8, max_size=4_000))
def test_frames_round_trip(data: bytes, prefix: bytes) -> None:
    for before in (None, prefix, data * 8):
        stored = compress(data, None if before is None else Prefix(before))
        assert decompress(stored, Frame(len(stored), len(data)), before) == data


@settings(deadline=None)
@given(
    data=st.binary(min_size=1, max_size=300),
    at=st.integers(0),
    value=st.integers(1, 255),
    cut=st.integers(1),
    more=st.binary(min_size=1, max_size=20),
)
def test_damaged_frames_give_other_bytes_or_a_pack_error(
    data: bytes, at: int, value: int, cut: int, more: bytes
) -> None:
    stored = compress(data)
    frame = Frame(len(stored), len(data))
    flipped = bytearray(stored)
    flipped[at % len(stored)] ^= value
    with contextlib.suppress(PackError):
        assert len(decompress(bytes(flipped), frame)) == len(data)
    for wrong in (stored[: cut % len(stored)], stored + more):
        with pytest.raises(PackError):
            decompress(wrong, frame)


@pytest.mark.parametrize("named", [1, 99, 101, 1 << 20])
def test_a_frame_of_another_size_than_named_is_refused(named: int) -> None:
    stored = compress(b"x" * 100)
    with pytest.raises(PackError, match=f"{named} bytes"):
        decompress(stored, Frame(len(stored), named))


def test_a_frame_against_another_prefix_never_gives_the_blob() -> None:
    base = noise(1, 10_000)
    stored = compress(base + b"x", Prefix(base))
    frame = Frame(len(stored), len(base) + 1)
    for prefix in (None, noise(2, 10_000)):
        with contextlib.suppress(PackError):
            assert decompress(stored, frame, prefix) != base + b"x"


def test_a_prefix_that_is_too_short_is_a_pack_error() -> None:
    stored = compress(b"x" * 100)
    with pytest.raises(PackError):
        decompress(stored, Frame(len(stored), 100, "0" * 64), b"short")
