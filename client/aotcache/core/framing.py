"""Framing: blobs are cut and joined to what one frame of a pack holds, before compression."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from mmap import mmap
from typing import Any

import msgspec
from blake3 import blake3

from aotcache.errors import NotSettledError, PackError
from aotcache.protocol.compression import zstd
from aotcache.protocol.manifest import MIN_PREFIX

FRAME_RAW = 4 << 20  # bytes of a full frame before compression
_BEFORE = 64 << 10  # bytes of the frame before that a frame is searched together with, at most
_SLACK = 512 << 10  # bytes on either side of the place that a frame refers to
_KEPT = 64 << 20  # bytes of pieces that are kept for the frames of other blobs, at most


def digest_of(data: bytes | mmap | memoryview) -> str:
    return blake3(data).hexdigest()


def in_pieces(data: bytes) -> Iterator[bytes]:
    """As a `Source` gives its bytes."""
    return (data[at : at + FRAME_RAW] for at in range(0, len(data), FRAME_RAW))


class Prefix:
    """A blob that frames are compressed against, piece by piece."""

    def __init__(self, data: bytes | mmap, digest: str = "") -> None:
        """digest: of the data, where it was made sure already."""
        self.digest = digest or digest_of(data)
        self.size = len(data)
        self.data = memoryview(data)
        self._kept: dict[tuple[int, int], Any] = {}
        self._left = _KEPT

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

    def kept_piece(self, start: int, length: int) -> Any:
        """As `piece`, made once: zstd copies what it refers to, and the ranks of a tree refer to
        the same places. For what is read; to compress against one takes more than to copy it."""
        known = self._kept.get((start, length))
        if known is None:
            known = self.piece(start, length)
            self._left -= length or self.size
            if self._left >= 0:
                self._kept[start, length] = known
        return known


class Source(msgspec.Struct, frozen=True):
    """A blob to be packed. `read` gives its location-free bytes, in pieces of FRAME_RAW but for the
    last, so that of a large one there is never more than a few frames in memory.

    prefix: a blob that is nearly equal, as (digest, reader of its bytes, which may give None): the
    source is then compressed against it, in frames of its own. Of sources that share one and
    follow each other it is read once. size: at most MAX_BLOB.
    """

    digest: str
    size: int
    group: tuple[str, ...]
    name: str
    read: Callable[[], Iterable[bytes]]
    prefix: tuple[str, Callable[[], bytes | None]] | None = None


class RawFrame(msgspec.Struct):
    """names: of the blobs in it, with their offset in this frame. at, before: where it begins in
    the first of them, and the bytes that come before that."""

    data: bytes
    starts: list[tuple[str, int, int]]  # digest, offset in this frame, size of the whole blob
    names: list[tuple[int, str]]
    at: int = 0
    before: bytes = b""
    prefix: Prefix | None = None
    start: int = 0  # of the piece of the prefix
    length: int = 0


def raw_frames(sources: Iterable[Source]) -> Iterator[RawFrame]:
    """In the order of the sources. Raises NotSettledError when a source's bytes are not those of
    its digest any more."""
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

    def _frame(self, size: int) -> RawFrame:
        data = bytes(self._buffer[:size])
        return RawFrame(data, self._starts, self._names, self._at, self._before)

    def add(self, source: Source) -> Iterator[RawFrame]:
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
        if not self._buffer:
            self._clear()  # it ended with a frame: what comes next is behind nothing
        elif not self._starts:
            # The end of a large blob: what comes next begins a frame of its own.
            yield from self.close()

    def close(self) -> Iterator[RawFrame]:
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


def _against(prefix: Prefix, source: Source) -> Iterator[RawFrame]:
    """A blob in frames that each refer to about the same place of one that is nearly equal: what
    one has more than the other may lie anywhere before it."""
    shift = prefix.size - source.size
    names, before = [(0, source.name)], b""
    for number, piece in enumerate(_checked(source)):
        at = number * FRAME_RAW
        start = max(0, at + min(0, shift) - _SLACK)
        end = min(prefix.size, at + len(piece) + max(0, shift) + _SLACK)
        starts = [(source.digest, 0, source.size)] if at == 0 else []
        frame = RawFrame(piece, starts, names, at, before)
        if end - start >= MIN_PREFIX:
            frame.prefix, frame.start, frame.length = prefix, start, end - start
        yield frame
        before = piece[-_BEFORE:]


def _read_prefix(read: Callable[[], bytes | None]) -> Prefix | None:
    data = read()
    return None if data is None else Prefix(data)
