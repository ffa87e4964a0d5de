"""Marks of loads: an engine that dies while it loads or first runs a pulled part leaves one.

The mark is locked by the process that loads. The kernel frees the lock when that process dies, so
that the next start tells a crash from an engine that is at it right now. What crashed is poison on
this node: it is not pulled again.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import shutil
from contextlib import suppress

import msgspec

from aotcache.errors import FormatError, LocalError
from aotcache.local.pulled import Note
from aotcache.local.state import (
    STATE_DIRECTORY,
    TreeState,
    make_directories,
    read_bytes,
    write_whole,
)
from aotcache.protocol.decoding import decode_json

logger = logging.getLogger(__name__)

_SUFFIX = ".json"
_LOCK_SECONDS = 10.0  # a pull of the same tree may be at work
_ours: set[str] = set()  # marks of this process: looking at one would free its lock


class Mark(msgspec.Struct, frozen=True):
    """One load in progress. `lift` it when the engine has run its first step."""

    path: str
    _fd: int

    def lift(self) -> None:
        _ours.discard(self.path)
        with suppress(OSError):
            os.unlink(self.path)
        with suppress(OSError):
            os.close(self._fd)


def mark(tree_path: str, note: Note) -> Mark:
    """Mark that this process loads a pulled part. Raises LocalError."""
    folder = TreeState(tree_path).loading
    make_directories(folder)
    path = os.path.join(folder, f"{note.part}.{_boot()}.{os.urandom(4).hex()}{_SUFFIX}")
    unlocked = path + ".tmp"
    fd = -1
    try:
        fd = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        # A record lock: flock would live on in every child that the engine forks.
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(fd, msgspec.json.encode(note))
        _ours.add(path)
        # Only now: one that is seen before it is locked would be a crash.
        os.rename(unlocked, path)
    except OSError as error:
        _ours.discard(path)
        with suppress(OSError):
            os.unlink(unlocked)
        if fd >= 0:
            os.close(fd)
        raise LocalError(f"cannot mark a load in {path}: {error.strerror}") from error
    return Mark(path, fd)


def take_crashed(folder: str) -> list[Note]:
    """Deal with loads from trees in `folder` whose process died: the parts that did it, which are
    poison here from now on. Their trees are moved aside, so that the engine compiles. Several
    processes may ask at once: each crash is given to one. Raises LocalError where none could be
    dealt with; one that could not stays a crash for who asks next."""
    base = os.path.join(folder, STATE_DIRECTORY, "loading")
    crashed: list[Note] = []
    failed: LocalError | None = None
    for tree in _listed(base):
        tree_path = os.path.join(folder, tree)
        if has_crashed(tree_path):
            try:
                crashed += _take(tree_path)
            except LocalError as error:
                logger.info("a crash is left to the next start: %s", error)
                failed = error
    if failed is not None and not crashed:
        raise failed
    return crashed


def has_crashed(tree_path: str) -> bool:
    """Whether a crash with this tree is still to be dealt with: it must not be loaded again. Where
    `.aotcache` is another's no mark is ours."""
    try:
        folder = TreeState(tree_path).loading
    except LocalError as error:
        logger.debug("no marks beside %s: %s", tree_path, error)
        return False
    return any(_is_dead(path) for path in _marks(folder))


def poisoned(tree_path: str) -> frozenset[str]:
    """`content_of` the parts that made an engine of this node crash."""
    try:
        return frozenset(decode_json(read_bytes(TreeState(tree_path).poison), list[str]))
    except (FileNotFoundError, FormatError):
        return frozenset()
    except OSError as error:
        raise LocalError(f"cannot read the poison of {tree_path}: {error.strerror}") from error


def _take(tree_path: str) -> list[Note]:
    state = TreeState(tree_path)
    with state.locked(_LOCK_SECONDS):
        notes = []
        dead = [path for path in _marks(state.loading) if _is_dead(path)]
        for path in dead:
            try:
                notes.append(decode_json(read_bytes(path), Note))
            except (FormatError, OSError) as error:
                # Killed while it wrote the mark, before it loaded anything.
                logger.debug("mark %s says nothing: %s", path, error)
        if notes:
            known = poisoned(tree_path) | {note.content for note in notes}
            write_whole(state.poison, msgspec.json.encode(sorted(known)))
            _move_aside(state)
        # At last: who is killed before leaves them to the next start.
        for path in dead:
            with suppress(OSError):
                os.unlink(path)
        return notes


def _move_aside(state: TreeState) -> None:
    """All of it: what crashed may be any of its libraries, and a compile would use it again."""
    try:
        make_directories(os.path.dirname(state.crashed))
        shutil.rmtree(state.crashed, ignore_errors=True)
        with suppress(FileNotFoundError):
            os.rename(state.tree_path, state.crashed)
        shutil.rmtree(state.pulled, ignore_errors=True)
    except OSError as error:
        raise LocalError(
            f"{state.tree_path} made an engine crash and cannot be moved aside: {error.strerror}; "
            "delete it"
        ) from error


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _marks(folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in _listed(folder) if name.endswith(_SUFFIX)]


@functools.cache
def _boot() -> str:
    """The running kernel, all containers on it; empty where it does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()[:8]
    except OSError:
        return ""


def _is_dead(path: str) -> bool:
    """Whether the process that made a mark is gone. Only this node's are judged: on a file system
    that several nodes share, locks may be known to one alone."""
    if path in _ours or f".{_boot()}." not in os.path.basename(path):
        return False
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
