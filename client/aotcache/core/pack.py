"""The pack codec: blobs into frames of zstd, frames into packs, and back.

A pack is the concatenation of zstd frames. A blob is a run of bytes of the pack's decompressed
bytes; small blobs share a frame, large ones cross frames. Frames never mix blobs of different
groups (a group is a set of parts), so that one part's pull moves that part's bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from aotcache.core.framing import FRAME_RAW, Prefix, RawFrame, Source, raw_frames
from aotcache.core.leaks import Scanner, leak_in
from aotcache.errors import PackError
from aotcache.protocol.compression import zstd
from aotcache.protocol.manifest import Frame, PackPlace

PACK_STORED = 32 << 20  # a pack is closed when it has this many bytes
# The service takes objects of 128 MiB. A blob, of MAX_BLOB at most, lies in one pack, behind less
# than a frame of others at the least, and zstd makes what does not compress a little longer.
PACK_LIMIT = 127 << 20
# Bytes of a frame that are decompressed at a time: few enough to stay in the processor's cache
# until they are hashed and written, and enough for threads not to wait for each other all the time.
PIECE = 512 << 10
LEVEL = 3
_WORKERS = max(2, min(8, os.cpu_count() or 2))


class BuiltPack(msgspec.Struct, frozen=True):
    """blobs: digest to (offset in the pack's decompressed bytes, size)."""

    place: PackPlace
    data: bytes
    blobs: dict[str, tuple[int, int]]


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
    for frame, compressed in _compressed(raw_frames(sources), scanner):
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


def _compressed(
    frames: Iterable[RawFrame], scanner: Scanner | None
) -> Iterator[tuple[RawFrame, bytes]]:
    """Search and compress in threads, in order, a few frames ahead."""
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="aotcache-zstd") as pool:
        ahead: deque[tuple[RawFrame, Future[bytes]]] = deque()
        for frame in frames:
            ahead.append((frame, pool.submit(_compress, frame, scanner)))
            if len(ahead) > _WORKERS:
                done, future = ahead.popleft()
                yield done, future.result()
        while ahead:
            done, future = ahead.popleft()
            yield done, future.result()


def _compress(frame: RawFrame, scanner: Scanner | None) -> bytes:
    if scanner is not None:
        _search(frame, scanner)
    return compress(frame.data, frame.prefix, frame.start, frame.length)


def _search(frame: RawFrame, scanner: Scanner) -> None:
    before = frame.before[-scanner.margin :]
    if before and (found := scanner.find(before + frame.data[: scanner.margin])) is not None:
        raise leak_in(frame.names[0][1], frame.at - len(before), found)
    if (found := scanner.find(frame.data)) is not None:
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
        reference = prefix.kept_piece(frame.start, frame.length) if prefix else None
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
