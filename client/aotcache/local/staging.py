"""Staging: pulled files are written and verified here, before any of them is seen in the tree."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable
from posixpath import dirname

from blake3 import blake3

from aotcache.core.relocation import MAX_RELOCATED, put_back
from aotcache.errors import LocalError, PackError
from aotcache.local.existing import REWRITTEN
from aotcache.local.install import NO_LINKS
from aotcache.local.state import make_directories
from aotcache.protocol.manifest import NOT_RELOCATED, FileEntry

Buffer = bytes | memoryview  # what is written

# Bytes of one write. For a larger one the kernel wants more pages that lie together than it has at
# hand once memory is full of files, as it is on every machine after a while: it moves others first.
_WRITE = 32 << 10
# Blobs up to this size are held in memory and verified before they are written anywhere.
_IN_MEMORY = 1 << 20

# Files that nobody ever writes to: Triton and torch fill a kernel's directory elsewhere and rename
# it, or its files. A node of eight devices has each eight times; linked, they are written once. Not
# the older loader's (`rank_0_0/…/triton_cache`), whose directory the engine works in.
_LINKED = re.compile(r"(?:inductor_cache/)?triton/[0-9]+/[^/]+/[^/]+")


class Staging:
    """A directory of files on their way into one tree. `write` may be called from several threads,
    once for each file, until `close`.

    The caller holds the tree's lock: what lies here already was left by a pull that died.
    """

    def __init__(self, path: str, tree_path: str, entries: Iterable[FileEntry]) -> None:
        """entries: all files that will be written."""
        self.path = path
        self._tree_path = tree_path
        self.clear()
        make_directories(os.path.dirname(path))
        try:
            # Nobody else may put anything in while it is filled.
            os.mkdir(path, mode=0o700)
            # Names are looked up from here: the way to it is as long as that in it.
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise _cannot_make(path, error) from error
        try:
            for directory in _directories(entries):
                os.mkdir(directory, mode=0o755, dir_fd=self._root)
        except OSError as error:
            self.close()
            raise _cannot_make(path, error) from error

    def close(self) -> None:
        os.close(self._root)

    def clear(self) -> None:
        discard(self.path)

    def write(self, digest: str, size: int, chunks: Iterable[Buffer], to: list[FileEntry]) -> None:
        """Write a blob to all files that have it. Raises PackError when the bytes are not those of
        the digest, RelocationError, and LocalError (disk full, no permission)."""
        relocated = any(entry.relocate != NOT_RELOCATED for entry in to)
        if relocated and size > MAX_RELOCATED:
            raise PackError(f"{to[0].path}: {size} bytes are too many to be relocated")
        try:
            if relocated or size <= _IN_MEMORY:
                pieces = list(chunks)
                self._write_small(digest, pieces[0] if len(pieces) == 1 else b"".join(pieces), to)
            else:
                self._write_large(digest, chunks, to)
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
            raise LocalError(f"cannot write {to[0].path} to {self.path}: {reason}") from error

    def _write_small(self, digest: str, data: Buffer, to: list[FileEntry]) -> None:
        if blake3(data).hexdigest() != digest:
            raise PackError(f"the bytes of {to[0].path} are not those its manifest names")
        first: FileEntry | None = None
        checked: set[str] = set()  # ways of relocation
        for entry in to:
            if entry.relocate != NOT_RELOCATED:
                known = entry.relocate in checked
                content = put_back(
                    bytes(data), entry.path, entry.relocate, self._tree_path, checked=known
                )
                checked.add(entry.relocate)
                self._write_file(entry, content)
            elif first is None or not self._link(first, entry):
                self._write_file(entry, data)
                first = entry

    def _write_large(self, digest: str, chunks: Iterable[Buffer], to: list[FileEntry]) -> None:
        hasher = blake3()
        fd = self._create(to[0])
        try:
            for chunk in chunks:
                hasher.update(chunk)
                _write_all(fd, chunk)
        finally:
            os.close(fd)
        if hasher.hexdigest() != digest:
            raise PackError(f"the bytes of {to[0].path} are not those its manifest names")
        for entry in to[1:]:
            if not self._link(to[0], entry):
                read = os.open(to[0].path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._root)
                with open(read, "rb") as source, open(self._create(entry), "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)

    def _write_file(self, entry: FileEntry, content: Buffer) -> None:
        fd = self._create(entry)
        try:
            _write_all(fd, content)
        finally:
            os.close(fd)

    def _link(self, first: FileEntry, entry: FileEntry) -> bool:
        """Make `entry` the file that `first` is, where nobody would ever see it. False: it has to
        be written."""
        if (
            first.mode != entry.mode
            or entry.path.endswith(REWRITTEN)
            or not _LINKED.fullmatch(entry.path)
            or not _LINKED.fullmatch(first.path)
        ):
            return False
        try:
            os.link(first.path, entry.path, src_dir_fd=self._root, dst_dir_fd=self._root)
        except OSError as error:
            if error.errno in NO_LINKS:
                return False
            raise
        return True

    def _create(self, entry: FileEntry) -> int:
        """A descriptor of a new file; the caller's umask makes its mode stricter where it is."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(entry.path, flags, entry.mode, dir_fd=self._root)


def _directories(entries: Iterable[FileEntry]) -> list[str]:
    """All directories that files lie in, each after the one around it."""
    found: set[str] = set()
    for lowest in {dirname(entry.path) for entry in entries}:
        directory = lowest
        while directory and directory not in found:
            found.add(directory)
            directory = dirname(directory)
    return sorted(found)


def _cannot_make(path: str, error: OSError) -> LocalError:
    return LocalError(f"cannot make {path}: {error.strerror}")


def _write_all(fd: int, data: Buffer) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:_WRITE]) :]


def discard(path: str) -> None:
    """Remove what a pull that died left at a staging path. The caller holds the tree's lock.
    Raises LocalError, also where a link lies there: what it leads to is nothing of ours."""
    try:
        if os.path.lexists(path):
            shutil.rmtree(path)
    except OSError as error:
        raise LocalError(f"cannot remove {path}: {error}; remove it by hand") from error
