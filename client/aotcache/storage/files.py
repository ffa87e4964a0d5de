"""Objects as files of a local (or NFS) directory.

A put writes to a hidden directory beside the namespaces, inside the root so that both are on one
file system, and links the whole, synced file to its name: a link is atomic and never replaces.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote

from aotcache.errors import StorageUnavailableError
from aotcache.storage.base import ObjectInfo
from aotcache.storage.checked import CheckedDirectStore

# No namespace starts with a dot: what lies in here has no key and is never listed.
INCOMING = ".incoming"
STALE_SECONDS = 24 * 3600
_LINK_TRIES = 100
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class FileStore(CheckedDirectStore):
    """Objects below `root`, an absolute directory, made if it is not there."""

    def __init__(self, root: str) -> None:
        super().__init__(f"file://{quote(root)}")
        self._root = root
        self._incoming = os.path.join(root, INCOMING)
        self._swept = False
        with self._failures("open", ""):
            os.makedirs(root, exist_ok=True)

    def close(self) -> None:
        """Nothing is held open between calls."""

    def _path(self, key: str) -> str:
        return os.path.join(self._root, key)

    def _put(self, key: str, data: bytes | memoryview) -> None:
        final = self._path(key)
        if os.path.lexists(final):
            raise FileExistsError(final)
        with self._written(data) as temporary:
            self._link(temporary, final)

    def _replace(self, key: str, data: bytes | memoryview) -> None:
        final = self._path(key)
        with self._written(data) as temporary:
            _make_folders(self._root, os.path.dirname(final))
            os.replace(temporary, final)
            _sync_folder(os.path.dirname(final))

    @contextmanager
    def _written(self, data: bytes | memoryview) -> Iterator[str]:
        """A synced file of these bytes outside the namespaces; gone at the end, if still there."""
        # Not its parents: a root that went away is a mount that dropped, not an empty store.
        with suppress(FileExistsError):
            os.mkdir(self._incoming)
        if not self._swept:
            self._sweep()
        temporary = os.path.join(self._incoming, secrets.token_hex(16))
        descriptor = os.open(temporary, _WRITE_FLAGS, 0o666)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                _write(file.fileno(), data)
                os.fsync(file.fileno())
            yield temporary
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    def _link(self, temporary: str, final: str) -> None:
        folder = os.path.dirname(final)
        for attempt in range(_LINK_TRIES):
            made = _make_folders(self._root, folder)
            try:
                os.link(temporary, final)
            except FileNotFoundError:
                # A delete of the last neighbour took the directory away in between.
                if attempt == _LINK_TRIES - 1:
                    raise
                continue
            for changed in (folder, *made):
                _sync_folder(changed)
            return

    def _sweep(self) -> None:
        """Remove what puts that were killed left behind, long after they can be alive."""
        self._swept = True
        oldest = time.time() - STALE_SECONDS
        with os.scandir(self._incoming) as entries:
            for entry in entries:
                # Gone already: another process sweeps too, or the put has ended.
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(entry.path)

    def _open(self, key: str) -> int:
        try:
            descriptor = os.open(self._path(key), _READ_FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.isdir(self._root):
                # Not one object that is missing: the whole place is, a volume not mounted perhaps.
                raise StorageUnavailableError(f"there is no directory {self._root}") from None
            raise FileNotFoundError(key) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(key)
        return descriptor

    def _get(self, key: str) -> bytes:
        with open(self._open(key), "rb") as file:
            return file.read()

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        with open(self._open(key), "rb", buffering=0) as file:
            # Not read(end): a range far past the end must not allocate what is not there.
            end = min(end, os.fstat(file.fileno()).st_size)
            found = bytearray()
            while start + len(found) < end:
                more = os.pread(file.fileno(), end - start - len(found), start + len(found))
                if not more:
                    break
                found += more
            return bytes(found)

    def _size(self, key: str) -> int:
        with open(self._open(key), "rb", buffering=0) as file:
            return os.fstat(file.fileno()).st_size

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        if not os.path.isdir(self._root):
            raise StorageUnavailableError(f"there is no directory {self._root}")
        return self._walk(prefix, after)

    def _walk(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(os.path.join(self._root, prefix)) as entries:
                # With its slash a directory sorts where the keys below it do.
                found = sorted(
                    (prefix + entry.name + ("/" if entry.is_dir(follow_symlinks=False) else ""))
                    for entry in entries
                    if prefix or entry.name != INCOMING
                )
        except (FileNotFoundError, NotADirectoryError):
            return
        for key in found:
            if key.endswith("/"):
                if key > after or after.startswith(key):
                    yield from self._walk(key, after)
            elif key > after:
                try:
                    found_there = os.lstat(self._path(key))
                except FileNotFoundError:
                    continue  # deleted since
                if stat.S_ISREG(found_there.st_mode):
                    yield ObjectInfo(key, found_there.st_size)

    def _delete(self, key: str) -> None:
        path = self._path(key)
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        folder = os.path.dirname(path)
        _sync_folder(folder)
        while folder != self._root:
            try:
                os.rmdir(folder)
            except OSError:
                return  # not empty, as a rule; an empty directory that stays does no harm
            folder = os.path.dirname(folder)


def _write(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _make_folders(root: str, folder: str) -> list[str]:
    """Make what is missing between `root` and `folder`; the directories that got a new entry."""
    missing = []
    while folder != root and not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    changed = []
    for name in reversed(missing):
        # Another put makes it at the same moment, or a delete takes its parent: the link tells.
        with suppress(FileExistsError, FileNotFoundError):
            os.mkdir(name)
            changed.append(os.path.dirname(name))
    return changed


def _sync_folder(folder: str) -> None:
    """Make the entries of a directory last through a power cut."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # taken away by a delete: there is nothing left to keep
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
