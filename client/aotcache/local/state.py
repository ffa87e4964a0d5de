"""What aotcache keeps beside the trees, in `.aotcache` of the directory that holds them.

Beside and not inside, so that a tree holds nothing of ours; in the same directory, so that a rename
into the tree stays on one file system.

    .aotcache/locks/{tree}.lock                one publisher or puller of a tree at a time
    .aotcache/staging/{tree}/                  what a pull has not installed yet
    .aotcache/records/{tree}/{part}.json       engine records, written by the compiling process
    .aotcache/manifests/{tree}/{target}/       {part}.manifest: the newest this node has pulled from
                                               or published to a target
    .aotcache/journal/{tree}.json              packs an interrupted publish has put already
    .aotcache/unpublished/{tree}               why the last publish failed
    .aotcache/memo/{tree}.json                 digests of files that have not changed since
    .aotcache/seen/{tree}/                     the directories of a tree that was stored whole, a
                                               file for each place
    .aotcache/pulled/{tree}/{part}.json        what the last pull put there, and what came of it
    .aotcache/loading/{tree}/                  marks of engines that are loading a pulled part
    .aotcache/poison/{tree}.json               what made an engine of this node crash
    .aotcache/crashed/{tree}/                  the tree as it was when it did
    .aotcache/outcomes/                        outcomes that the service has not been told yet
    .aotcache/outcomes.lock                    one process tells them at a time

What lies here decides what is installed, so nobody else may be able to change it: beside a
TORCHINDUCTOR_CACHE_DIR in /tmp, any user of the machine could have made it first.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape, iglob

import msgspec

from aotcache.errors import LocalError
from aotcache.local.locks import alone
from aotcache.protocol.names import check_part

logger = logging.getLogger(__name__)

STATE_DIRECTORY = ".aotcache"
_UNFINISHED = ".????????.tmp"  # of write_whole


def target_of(store_url: str, namespace: str, platform: str) -> str:
    """Where a tree is pulled from or published to: 16 hex characters. `platform` is an id."""
    import hashlib

    return hashlib.sha256(f"{store_url} {namespace} {platform}".encode()).hexdigest()[:16]


class TreeState(msgspec.Struct, frozen=True):
    """One tree's state. `tree_path` is absolute; the tree itself need not exist.

    Raises LocalError wherever `.aotcache` is another's: see `check_ours`.
    """

    tree_path: str

    def _path(self, kind: str, suffix: str = "") -> str:
        parent, name = os.path.split(self.tree_path)
        directory = os.path.join(parent, STATE_DIRECTORY)
        check_ours(directory)
        return os.path.join(directory, kind, name + suffix)

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
    def unpublished(self) -> str:
        return self._path("unpublished")

    @property
    def memo(self) -> str:
        return self._path("memo", ".json")

    @property
    def seen(self) -> str:
        return self._path("seen")

    @property
    def pulled(self) -> str:
        return self._path("pulled")

    @property
    def loading(self) -> str:
        return self._path("loading")

    @property
    def poison(self) -> str:
        return self._path("poison", ".json")

    @property
    def crashed(self) -> str:
        return self._path("crashed")

    @property
    def manifests(self) -> str:
        return self._path("manifests")

    @property
    def outcomes(self) -> str:
        """Of all trees that lie beside this one."""
        return os.path.dirname(self._path("outcomes"))

    def _manifest(self, target: str, part: str) -> str:
        return os.path.join(self.manifests, target, check_part(part) + ".manifest")

    def remember(self, target: str, part: str, data: bytes) -> None:
        """Keep the manifest that was pulled or published, for what asks `remembered` later."""
        write_whole(self._manifest(target, part), data)

    def remembered(self, target: str) -> dict[str, bytes]:
        """The manifests this node has pulled from or published to `target`, by part."""
        return read_folder(os.path.join(self.manifests, target), ".manifest")

    def targets(self) -> list[str]:
        """All targets of which something is remembered. Raises LocalError."""
        try:
            return sorted(os.listdir(self.manifests))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LocalError(f"cannot read {error.filename}: {error.strerror}") from error

    @contextmanager
    def locked(
        self, timeout: float = -1, waiting: Callable[[str], None] = logger.info
    ) -> Iterator[None]:
        """Be the only publisher or puller of this tree on this node. The kernel frees the lock of a
        process that dies. timeout: seconds, negative for no bound. waiting: is told once when
        another has it. Raises LocalError."""
        path = self._path("locks", ".lock")
        make_directories(os.path.dirname(path))
        # Again: somebody else may have made it since the first look.
        check_ours(os.path.dirname(os.path.dirname(path)))
        with ExitStack() as held:
            try:
                held.enter_context(
                    alone(
                        path,
                        timeout,
                        lambda: waiting(f"waiting for another process that is at {self.tree_path}"),
                    )
                )
            except TimeoutError as error:
                raise LocalError(
                    f"another process has been at {self.tree_path} for {timeout:.0f} s: "
                    "wait for it, or stop it"
                ) from error
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove what killed writers of this tree left. They held the lock, as its writers do;
        only records are written without it."""
        manifests = os.path.join(escape(self.manifests), "*", "*.manifest")
        for pattern in (manifests, escape(self.journal), escape(self.memo)):
            for path in iglob(pattern + _UNFINISHED):
                with suppress(OSError):
                    os.unlink(path)


def check_ours(directory: str) -> None:
    """Whether nobody else can change what lies in `.aotcache`, where it exists. Raises LocalError.

    Who can write to the directory around it can put anything into the trees themselves, so that its
    owner may own this too, and its group may write to both (as a Kubernetes fsGroup makes it); in
    a sticky one as /tmp that does not follow.
    """
    try:
        found = os.lstat(directory)
        around = os.stat(os.path.dirname(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise LocalError(f"cannot look at {directory}: {error.strerror}") from error
    shared = (
        bool(around.st_mode & stat.S_IWGRP)
        and not around.st_mode & stat.S_ISVTX
        and found.st_gid == around.st_gid
    )
    if not stat.S_ISDIR(found.st_mode):
        why = "is not a directory"
    elif found.st_uid not in (os.geteuid(), 0, around.st_uid):
        why = f"belongs to user {found.st_uid}"
    elif found.st_mode & (stat.S_IWOTH if shared else stat.S_IWOTH | stat.S_IWGRP):
        why = "can be written by others"
    else:
        return
    raise LocalError(
        f"{directory} {why}: nothing was done, as what lies there decides what is installed. Look "
        "at who made it; remove it, or use a cache directory that only this user can write to"
    )


def make_directories(path: str) -> None:
    """Raises LocalError that names the path and the reason."""
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except OSError as error:
        raise LocalError(f"cannot make {path}: {error.strerror}") from error


def read_bytes(path: str, expected: int = 16 << 10) -> bytes:
    """expected: about how many bytes there are. Python's own files ask the kernel five things more,
    which is most of what it takes to read a small one."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(file, expected + 1):
            pieces.append(piece)
            if len(piece) <= expected:
                break  # what is shorter than was asked for is the last
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(file)


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
    temporary = f"{path}.{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise LocalError(f"cannot write {path}: {error.strerror}") from error
