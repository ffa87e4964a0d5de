"""The pack codec: blobs into frames of zstd, frames into packs, and back.

A pack is the concatenation of zstd frames. A blob is a run of bytes of the pack's decompressed
bytes; small blobs share a frame, large ones cross frames. Frames never mix blobs of different
groups (a group is a set of parts), so that one part's pull moves that part's bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from aotcache.core.leaks import Scanner, leak_in
from aotcache.errors import NotSettledError, PackError
from aotcache.protocol.compression import zstd
from aotcache.protocol.manifest import MIN_PREFIX, Frame, PackPlace

FRAME_RAW = 4 << 20  # bytes of a full frame before compression
PACK_STORED = 32 << 20  # a pack is closed when it has this many bytes
# The service takes objects of 128 MiB. A blob lies in one pack, behind less than a frame of others
# at the least, and zstd makes what does not compress a little longer.
PACK_LIMIT = 127 << 20
MAX_BLOB = 96 << 20  # bytes of a blob before compression
PIECE = 128 << 10  # bytes of a frame that are decompressed at a time
LEVEL = 3
_WORKERS = max(2, min(8, os.cpu_count() or 2))
_BEFORE = 64 << 10  # bytes of the frame before that a frame is searched together with, at most
_SLACK = 512 << 10  # bytes on either side of the place that a frame refers to


def digest_of(data: bytes | bytearray | memoryview) -> str:
    return blake3(data).hexdigest()


def in_pieces(data: bytes) -> Iterator[bytes]:
    """As a `Source` gives its bytes."""
    return (data[at : at + FRAME_RAW] for at in range(0, len(data), FRAME_RAW))


class Prefix:
    """A blob that frames are compressed against, piece by piece."""

    def __init__(self, data: bytes | bytearray) -> None:
        self.digest = digest_of(data)
        self.size = len(data)
        self.data = memoryview(data)

    def piece(self, start: int, length: int) -> Any:
        """Bytes [start, start + length) as zstd's reference prefix, all of them where length is 0.
        Raises PackError where there are not so many."""
        end = start + length if length else self.size
        if end > self.size:
            raise PackError(f"a frame needs bytes of {self.digest[:12]} that it does not have")
        try:
            return zstd.ZstdDict(self.data[start:end], is_raw=True).as_prefix
        except ValueError as error:  # under 8 bytes
            raise PackError(f"{end - start} bytes of {self.digest[:12]} are no prefix") from error


@dataclass(frozen=True, slots=True)
class Source:
    """A blob to be packed. `read` gives its location-free bytes, in pieces of FRAME_RAW but for the
    last, so that of a large one there is never more than a few frames in memory.

    prefix: a blob that is nearly equal, as (digest, reader of its bytes, which may give None): the
    source is then compressed against it, in frames of its own. Of sources that share one and
    follow each other it is read once. own_prefix: that blob is among the sources itself. size: at
    most MAX_BLOB.
    """

    digest: str
    size: int
    group: tuple[str, ...]
    name: str
    read: Callable[[], Iterable[bytes]]
    prefix: tuple[str, Callable[[], bytes | None]] | None = None
    own_prefix: bool = False


@dataclass(frozen=True, slots=True)
class BuiltPack:
    """blobs: digest to (offset in the pack's decompressed bytes, size)."""

    place: PackPlace
    data: bytes
    blobs: dict[str, tuple[int, int]]


@dataclass(slots=True)
class _RawFrame:
    """names: of the blobs in it, with their offset in this frame. at, before: where it begins in
    the first of them, and the bytes that come before that. own_prefix: as of a Source."""

    data: bytes
    starts: list[tuple[str, int, int]]  # digest, offset in this frame, size of the whole blob
    names: list[tuple[int, str]]
    at: int = 0
    before: bytes = b""
    prefix: Prefix | None = None
    start: int = 0  # of the piece of the prefix
    length: int = 0
    own_prefix: bool = False


def build_packs(
    sources: Iterable[Source], publish_id: str, scanner: Scanner | None = None
) -> Iterator[BuiltPack]:
    """Pack blobs in the given order. At most a pack and a few frames are in memory. scanner: looks
    for secrets in each frame, before its pack is given.

    Raises NotSettledError when a source's bytes are not those of its digest any more, and
    LeakError.
    """
    frames: list[tuple[Frame, bytes]] = []
    blobs: dict[str, tuple[int, int]] = {}
    stored = raw = 0
    open_end = 0  # where the last blob that was begun ends: a pack is not closed inside a blob
    for frame, compressed in _compressed(_raw_frames(sources), scanner):
        # What comes before the next place where a pack may be closed, at its longest.
        ahead = max([len(frame.data), *(offset + size for _, offset, size in frame.starts)])
        full = stored >= PACK_STORED or stored + ahead > PACK_LIMIT
        if frames and full and raw >= open_end:
            yield _close(frames, blobs, publish_id)
            frames, blobs, stored, raw, open_end = [], {}, 0, 0, 0
        digest = frame.prefix.digest if frame.prefix else None
        placed = Frame(len(compressed), len(frame.data), digest, frame.start, frame.length)
        frames.append((placed, compressed))
        for digest, offset, size in frame.starts:
            blobs[digest] = (raw + offset, size)
            open_end = raw + offset + size
        stored += len(compressed)
        raw += len(frame.data)
    if frames:
        yield _close(frames, blobs, publish_id)


def _close(
    frames: list[tuple[Frame, bytes]], blobs: dict[str, tuple[int, int]], publish_id: str
) -> BuiltPack:
    data = b"".join(compressed for _, compressed in frames)
    name = f"{hashlib.sha256(data).hexdigest()}-{publish_id}"
    return BuiltPack(PackPlace(name, tuple(frame for frame, _ in frames)), data, blobs)


def _raw_frames(sources: Iterable[Source]) -> Iterator[_RawFrame]:
    shared = _Shared()
    group: tuple[str, ...] = ()
    held: Prefix | None = None
    for source in sources:
        if source.prefix or source.group != group:
            yield from shared.close()
        group = source.group
        if source.prefix:
            if held is None or held.digest != source.prefix[0]:
                held = _read_prefix(source.prefix[1])
                if held is not None and held.digest != source.prefix[0]:
                    # The frame could never be read again.
                    raise NotSettledError(
                        f"what {source.name} is packed against changed: try again"
                    )
            if held is not None:
                yield from _against(held, source)
                continue
        yield from shared.add(source)
    yield from shared.close()


class _Shared:
    """Frames that blobs share, or that one large blob fills."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self, at: int = 0, before: bytes = b"") -> None:
        self._buffer = bytearray()
        self._starts: list[tuple[str, int, int]] = []
        self._names: list[tuple[int, str]] = []
        self._at, self._before = at, before

    def _frame(self, size: int) -> _RawFrame:
        data = bytes(self._buffer[:size])
        return _RawFrame(data, self._starts, self._names, self._at, self._before)

    def add(self, source: Source) -> Iterator[_RawFrame]:
        self._starts.append((source.digest, len(self._buffer), source.size))
        self._names.append((len(self._buffer), source.name))
        read = 0
        for piece in _checked(source):
            self._buffer += piece
            read += len(piece)
            if len(self._buffer) >= FRAME_RAW:
                frame = self._frame(FRAME_RAW)
                yield frame
                rest = self._buffer[FRAME_RAW:]
                # Of this source all but the rest is in frames now.
                self._clear(read - len(rest), frame.data[-_BEFORE:])
                self._buffer, self._names = rest, [(0, source.name)]
        if self._buffer and not self._starts:
            # The end of a large blob: what comes next begins a frame of its own.
            yield from self.close()

    def close(self) -> Iterator[_RawFrame]:
        if self._buffer:
            yield self._frame(len(self._buffer))
        self._clear()


def _checked(source: Source) -> Iterator[bytes]:
    """The pieces of a source. Raises NotSettledError at the end where they are not its bytes: its
    pack is then never closed."""
    hasher, size = blake3(), 0
    for piece in source.read():
        hasher.update(piece)
        size += len(piece)
        if size > source.size:
            break
        yield piece
    if size != source.size or hasher.hexdigest() != source.digest:
        raise NotSettledError(f"{source.name} changed while it was published: try again later")


def _against(prefix: Prefix, source: Source) -> Iterator[_RawFrame]:
    """A blob in frames that each refer to about the same place of one that is nearly equal: what
    one has more than the other may lie anywhere before it."""
    shift = prefix.size - source.size
    names, before = [(0, source.name)], b""
    for number, piece in enumerate(_checked(source)):
        at = number * FRAME_RAW
        start = max(0, at + min(0, shift) - _SLACK)
        end = min(prefix.size, at + len(piece) + max(0, shift) + _SLACK)
        starts = [(source.digest, 0, source.size)] if at == 0 else []
        frame = _RawFrame(piece, starts, names, at, before)
        if end - start >= MIN_PREFIX:
            frame.prefix, frame.start, frame.length = prefix, start, end - start
            frame.own_prefix = source.own_prefix
        yield frame
        before = piece[-_BEFORE:]


def _read_prefix(read: Callable[[], bytes | None]) -> Prefix | None:
    data = read()
    return None if data is None else Prefix(data)


def _compressed(
    frames: Iterable[_RawFrame], scanner: Scanner | None
) -> Iterator[tuple[_RawFrame, bytes]]:
    """Search and compress in threads, in order, a few frames ahead."""
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="aotcache-zstd") as pool:
        ahead: deque[tuple[_RawFrame, Future[bytes]]] = deque()
        for frame in frames:
            ahead.append((frame, pool.submit(_compress, frame, scanner)))
            if len(ahead) > _WORKERS:
                done, future = ahead.popleft()
                yield done, future.result()
        while ahead:
            done, future = ahead.popleft()
            yield done, future.result()


def _compress(frame: _RawFrame, scanner: Scanner | None) -> bytes:
    if scanner is not None:
        _search(frame, scanner)
    return compress(frame.data, frame.prefix, frame.start, frame.length)


def _search(frame: _RawFrame, scanner: Scanner) -> None:
    before = frame.before[-scanner.margin :]
    if before and (found := scanner.find(before + frame.data[: scanner.margin])) is not None:
        raise leak_in(frame.names[0][1], frame.at - len(before), found)
    if frame.prefix is not None and frame.own_prefix:
        found = scanner.find_beside(frame.data, frame.prefix.data, frame.at)
    else:
        found = scanner.find(frame.data)
    if found is not None:
        offset, name = next(n for n in reversed(frame.names) if n[0] <= found.at)
        raise leak_in(name, frame.at - offset, found)


def compress(data: bytes, prefix: Prefix | None = None, start: int = 0, length: int = 0) -> bytes:
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {parameter.compression_level: LEVEL, parameter.checksum_flag: 0}
    if prefix is None:
        return zstd.compress(data, options=options)
    # The window must reach back over the whole piece, and long-distance matching finds it there.
    window = max(20, min(27, (len(data) + (length or prefix.size)).bit_length()))
    options |= {parameter.window_log: window, parameter.enable_long_distance_matching: 1}
    if len(data) >= FRAME_RAW:
        # Of what is this long long matches leave little: to look for them at fewer places, and for
        # others less, takes half the time (docs/benchmarks.md).
        options |= {parameter.compression_level: 1, parameter.ldm_hash_rate_log: 9}
    return zstd.compress(data, options=options, zstd_dict=prefix.piece(start, length))


def decompress(
    stored: bytes | memoryview, frame: Frame, prefix: Prefix | None = None
) -> Iterator[bytes]:
    """The bytes of one frame, in pieces of at most PIECE: what is done with one finds it in the
    processor's cache. Raises PackError unless it holds exactly `frame.raw` bytes; no more than that
    are given."""
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 27}
    left = frame.raw
    try:
        reference = prefix.piece(frame.start, frame.length) if prefix else None
        decompressor = zstd.ZstdDecompressor(zstd_dict=reference, options=options)
        while left and not decompressor.eof:
            piece = decompressor.decompress(stored, max_length=min(left, PIECE))
            if not piece:
                break
            stored = b""  # it keeps what it has not read yet
            left -= len(piece)
            yield piece
        # With its output full to the last byte zstd may not have seen the frame's end yet.
        more = b"" if decompressor.eof else decompressor.decompress(b"", max_length=1)
    except zstd.ZstdError as error:
        raise PackError(f"a frame is damaged: {error}") from error
    if more or left or not decompressor.eof or decompressor.unused_data:
        raise PackError(f"a frame does not hold the {frame.raw} bytes that its manifest names")
