"""Staging: pulled files are written and verified here, before any of them is seen in the tree."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterable
from posixpath import dirname

from blake3 import blake3

from aotcache.core.relocation import MAX_RELOCATED, put_back
from aotcache.errors import LocalError, PackError
from aotcache.local.state import make_directories
from aotcache.protocol.manifest import NOT_RELOCATED, FileEntry

# Blobs up to this size are held in memory and verified before they are written anywhere.
_IN_MEMORY = max(4 << 20, MAX_RELOCATED)


class Staging:
    """A directory of files on their way into one tree. `write` may be called from several threads.

    The caller holds the tree's lock: what lies here already was left by a pull that died.
    """

    def __init__(self, path: str, tree_path: str) -> None:
        self.path = path
        self._tree_path = tree_path
        self._made: set[str] = set()
        self._lock = threading.Lock()
        self.clear()
        make_directories(os.path.dirname(path))
        try:
            # Nobody else may put anything in while it is filled.
            os.mkdir(path, mode=0o700)
        except OSError as error:
            raise LocalError(f"cannot make {path}: {error.strerror}") from error

    def clear(self) -> None:
        discard(self.path)

    def write(self, digest: str, size: int, chunks: Iterable[bytes], to: list[FileEntry]) -> None:
        """Write a blob to all files that have it. Raises PackError when the bytes are not those of
        the digest, RelocationError, and LocalError (disk full, no permission)."""
        try:
            if size <= _IN_MEMORY:
                self._write_small(digest, b"".join(chunks), to)
            else:
                self._write_large(digest, size, chunks, to)
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
            raise LocalError(f"cannot write {to[0].path} to {self.path}: {reason}") from error

    def _write_small(self, digest: str, data: bytes, to: list[FileEntry]) -> None:
        if blake3(data).hexdigest() != digest:
            raise PackError(f"the bytes of {to[0].path} are not those its manifest names")
        for entry in to:
            content = data
            if entry.relocate != NOT_RELOCATED:
                content = put_back(data, entry.path, entry.relocate, self._tree_path)
            with open(self._create(entry), "wb") as file:
                file.write(content)

    def _write_large(
        self, digest: str, size: int, chunks: Iterable[bytes], to: list[FileEntry]
    ) -> None:
        if any(entry.relocate != NOT_RELOCATED for entry in to):
            raise PackError(f"{to[0].path}: {size} bytes are too many to be relocated")
        hasher = blake3()
        first = os.path.join(self.path, to[0].path)
        with open(self._create(to[0]), "wb") as file:
            for chunk in chunks:
                hasher.update(chunk)
                file.write(chunk)
        if hasher.hexdigest() != digest:
            raise PackError(f"the bytes of {to[0].path} are not those its manifest names")
        for entry in to[1:]:
            with open(first, "rb") as source, open(self._create(entry), "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)

    def _create(self, entry: FileEntry) -> int:
        """A descriptor of a new file; the caller's umask makes its mode stricter where it is."""
        self._make(dirname(entry.path))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(os.path.join(self.path, entry.path), flags, entry.mode)

    def _make(self, directory: str) -> None:
        if directory in self._made or not directory:
            return
        with self._lock:
            os.makedirs(os.path.join(self.path, directory), mode=0o755, exist_ok=True)
            self._made.add(directory)


def discard(path: str) -> None:
    """Remove what a pull that died left at a staging path. The caller holds the tree's lock.
    Raises LocalError, also where a link lies there: what it leads to is nothing of ours."""
    try:
        if os.path.lexists(path):
            shutil.rmtree(path)
    except OSError as error:
        raise LocalError(f"cannot remove {path}: {error}; remove it by hand") from error
