"""What aotcache keeps beside the trees, in `.aotcache` of the directory that holds them.

Beside and not inside, so that a tree holds nothing of ours; in the same directory, so that a rename
into the tree stays on one file system.

    .aotcache/locks/{tree}.lock                one publisher or puller of a tree at a time
    .aotcache/staging/{tree}/                  what a pull has not installed yet
    .aotcache/records/{tree}/{part}.json       engine records, written by the compiling process
    .aotcache/manifests/{tree}/{part}.manifest the newest manifest this node has pulled or published
    .aotcache/journal/{tree}.json              packs an interrupted publish has put already
    .aotcache/memo/{tree}.json                 digests of files that have not changed since
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from filelock import FileLock, Timeout

from aotcache.errors import LocalError
from aotcache.protocol.names import check_part

STATE_DIRECTORY = ".aotcache"


@dataclass(frozen=True, slots=True)
class TreeState:
    """Paths of one tree's state. `tree_path` is absolute; the tree itself need not exist."""

    tree_path: str

    def _path(self, kind: str, suffix: str = "") -> str:
        parent, name = os.path.split(self.tree_path)
        return os.path.join(parent, STATE_DIRECTORY, kind, name + suffix)

    @property
    def staging(self) -> str:
        return self._path("staging")

    @property
    def records(self) -> str:
        return self._path("records")

    @property
    def journal(self) -> str:
        return self._path("journal", ".json")

    @property
    def memo(self) -> str:
        return self._path("memo", ".json")

    def manifest(self, part: str) -> str:
        return os.path.join(self._path("manifests"), check_part(part) + ".manifest")

    def manifests(self) -> dict[str, bytes]:
        """The manifests this node has pulled or published of this tree, by part."""
        return read_folder(self._path("manifests"), ".manifest")

    def forget(self) -> None:
        """Drop what is known of earlier publishes and pulls; records stay."""
        for path in (self.journal, self.memo):
            with suppress(FileNotFoundError):
                os.unlink(path)
        shutil.rmtree(self._path("manifests"), ignore_errors=True)

    @contextmanager
    def locked(self, timeout: float = -1) -> Iterator[None]:
        """Be the only publisher or puller of this tree on this node. The kernel frees the lock of a
        process that dies. timeout: seconds, negative for no bound. Raises LocalError."""
        path = self._path("locks", ".lock")
        make_directories(os.path.dirname(path))
        lock = FileLock(path, timeout=timeout)
        try:
            lock.acquire()
        except Timeout as error:
            raise LocalError(
                f"another process has been at {self.tree_path} for {timeout:.0f} s: "
                "wait for it, or stop it"
            ) from error
        except OSError as error:
            raise LocalError(
                f"cannot lock {path}: {error.strerror}; run this as the user whose cache it is"
            ) from error
        try:
            yield
        finally:
            lock.release()


def make_directories(path: str) -> None:
    """Raises LocalError that names the path and the reason."""
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except OSError as error:
        raise LocalError(f"cannot make {path}: {error.strerror}") from error


def read_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def read_folder(folder: str, suffix: str) -> dict[str, bytes]:
    """The files of a directory of ours, by name without the suffix; none where there is no such
    directory. Raises LocalError."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(suffix))
        return {name.removesuffix(suffix): read_bytes(os.path.join(folder, name)) for name in names}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LocalError(f"cannot read {error.filename or folder}: {error.strerror}") from error


def write_whole(path: str, data: bytes) -> None:
    """Replace a file of ours: a reader sees the old or the new, a kill leaves one of the two."""
    make_directories(os.path.dirname(path))
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise LocalError(f"cannot write {path}: {error.strerror}") from error
