"""Describe: the location-free digest of each file of a tree, read only where it has changed."""

from __future__ import annotations

import logging
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, chain

import msgspec
from blake3 import blake3

from aotcache.core.framing import FRAME_RAW, digest_of, in_pieces
from aotcache.core.limits import MAX_BLOB
from aotcache.core.relocation import kind_of, make_free
from aotcache.errors import NotSettledError, RelocationError
from aotcache.local.journal import Described, read_memo, write_memo
from aotcache.local.state import TreeState, read_bytes
from aotcache.probe.trees import FoundTree, LeftOut, ScannedFile
from aotcache.protocol.manifest import NOT_RELOCATED
from aotcache.sync.helper import Helper, HelperKilledError, Say, is_worth

logger = logging.getLogger(__name__)

_WHOLE = 1 << 20  # bytes of a file that is read at once
_PIECE = 256 << 10  # bytes that are hashed at once: they stay in the processor's cache
_PER_FILE = 60 << 10  # bytes that are read and hashed in the time that one file takes besides

_Result = tuple[str, "Described | RelocationError"]


def read_free(tree: FoundTree, path: str, size: int) -> tuple[str, bytes]:
    """How a file of about this size is relocated, and its location-free bytes. Raises
    RelocationError, or NotSettledError when it went away."""
    try:
        content = read_bytes(f"{tree.path}/{path}", size)
    except OSError as error:
        raise NotSettledError(f"{tree.path}/{path}: {error.strerror}") from error
    return make_free(content, path, tree.hash)


def read_pieces(tree: FoundTree, path: str, size: int) -> Iterator[bytes]:
    """The location-free bytes of a file of about this size, as a `Source` gives them. Raises as
    `read_free` does."""
    if size <= FRAME_RAW or kind_of(path) != NOT_RELOCATED:
        yield from in_pieces(read_free(tree, path, size)[1])
        return
    try:
        # Whole, a model would take new memory each time, which costs more than to read it.
        with open(f"{tree.path}/{path}", "rb") as file:
            while piece := file.read(FRAME_RAW):
                yield piece
    except OSError as error:
        raise NotSettledError(f"{tree.path}/{path}: {error.strerror}") from error


def _describe(tree: FoundTree, file: ScannedFile) -> Described | RelocationError:
    stat = (file.size, file.mtime_ns, file.inode)
    try:
        if file.size > _WHOLE and kind_of(file.path) == NOT_RELOCATED:
            return Described(stat, *_read_through(tree, file.path), NOT_RELOCATED)
        relocate, free = read_free(tree, file.path, file.size)
    except RelocationError as error:
        return error
    return Described(stat, digest_of(free), len(free), relocate)


def _describe_all(tree: FoundTree, files: Sequence[ScannedFile]) -> Iterator[_Result]:
    """Half of them in another process where that is worth it."""
    threads = max(2, min(8, os.cpu_count() or 2))
    if not is_worth(sum(file.size for file in files)):
        yield from _read(tree, files, threads)
        return
    threads //= 2
    own, lent = _shared_out(files)

    def work(_told: bytes, say: Say) -> None:
        said = (
            (path, r if isinstance(r, Described) else str(r))
            for path, r in _read(tree, lent, threads)
        )
        say(list(said))

    found: list[_Result] = []

    def heard(said: msgspec.Raw) -> None:
        for path, r in msgspec.json.decode(said, type=list[tuple[str, Described | str]]):
            found.append((path, RelocationError(r) if isinstance(r, str) else r))

    try:
        helper = Helper(work)
    except OSError as error:
        logger.info("%s is read by one process, as no other can be made: %s", tree.path, error)
        yield from _read(tree, files, 2 * threads)
        return
    try:
        helper.tell(b"")
        yield from _read(tree, own, threads)
        try:
            helper.listen(heard)
        except HelperKilledError:
            helper.stop()
            logger.warning(
                "the process that helped to read %s was killed, perhaps as memory ran out: its "
                "share is read here",
                tree.path,
            )
            found = list(_read(tree, lent, threads))
        yield from found
        helper.leave()
    finally:
        helper.stop()


def _shared_out(
    files: Iterable[ScannedFile],
) -> tuple[list[ScannedFile], list[ScannedFile]]:
    """In two halves of about the same work, the large ones in the second."""
    ordered = sorted(files, key=lambda file: -file.size)
    done = list(accumulate(file.size + _PER_FILE for file in ordered))
    half = max(1, bisect_left(done, done[-1] / 2))
    return ordered[half:], ordered[:half]


def _read(tree: FoundTree, files: Iterable[ScannedFile], threads: int) -> Iterator[_Result]:
    # One queue for all: a task a file costs more than to read most of them. The largest first, so
    # that none is left to be read alone at the end.
    queue = iter(sorted(files, key=lambda file: -file.size))

    def work(_: int) -> list[_Result]:
        return [(file.path, _describe(tree, file)) for file in queue]

    with ThreadPoolExecutor(threads, thread_name_prefix="aotcache-read") as pool:
        yield from chain.from_iterable(pool.map(work, range(threads)))


def _read_through(tree: FoundTree, path: str) -> tuple[str, int]:
    """Digest and size of a file that is stored as it is, without holding it in memory."""
    hasher, size = blake3(), 0
    piece = memoryview(bytearray(_PIECE))
    try:
        with open(f"{tree.path}/{path}", "rb", buffering=0) as file:
            while count := file.readinto(piece):
                hasher.update(piece[:count])
                size += count
    except OSError as error:
        raise NotSettledError(f"{tree.path}/{path}: {error.strerror}") from error
    return hasher.hexdigest(), size


def describe(
    tree: FoundTree, files: Iterable[ScannedFile]
) -> tuple[dict[str, Described], list[LeftOut]]:
    """What each file holds, by path, and what has to be left out."""
    state = TreeState(tree.path)
    memo = read_memo(state)
    described: dict[str, Described] = {}
    changed = []
    left_out: list[LeftOut] = []
    for file in files:
        if file.size > MAX_BLOB:
            reason = f"{file.size} bytes: of one file at most {MAX_BLOB} bytes are stored"
            left_out.append(LeftOut(file.path, reason))
            continue
        known = memo.get(file.path)
        if known is not None and known.stat == (file.size, file.mtime_ns, file.inode):
            described[file.path] = known
        else:
            changed.append(file)

    for path, result in _describe_all(tree, changed):
        if isinstance(result, RelocationError):
            left_out.append(LeftOut(path, str(result)))
        else:
            described[path] = result
    if changed:
        # The memo is the tree's, these are the files of some of its parts.
        write_memo(state, memo | described)
    return described, left_out
