"""The trees that lie under a cache root, and the files of one tree by part."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from glob import iglob

import msgspec

from aotcache.errors import InvalidNameError, LocalError
from aotcache.probe.layouts import classify_entered, never
from aotcache.protocol.names import INDUCTOR, VLLM_AOT, VLLM_JIT, check_hash
from aotcache.protocol.text import printable

# Where each layout's trees lie under a cache root.
_HOMES = (
    (VLLM_AOT, "torch_compile_cache/torch_aot_compile"),
    (VLLM_JIT, "torch_compile_cache"),
    (INDUCTOR, "inductor"),
)

# Where an Inductor cache, and so its locks, can lie in a tree of any layout.
_LOCKS = (
    "locks",
    "inductor_cache/locks",
    "rank_*/inductor_cache/locks",
    "rank_*/*/inductor_cache/locks",
    "rank_*/*/artifact_*/locks",
)

_DEVICE = re.compile(r"(?:^|/)triton/(\d+)/")
_KINDS = {
    stat.S_IFLNK: "symbolic link",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


class FoundTree(msgspec.Struct, frozen=True):
    """A directory that is named as a tree of this layout is."""

    layout: str
    hash: str
    path: str


class ScannedFile(msgspec.Struct, frozen=True):
    """A file that may be published. path: relative to the tree. part_dir: `shared` or `rank_0_0`.

    size in bytes; executable: its owner may run it; mtime_ns and inode tell a later scan whether it
    is still the same file.
    """

    path: str
    part_dir: str
    size: int
    executable: bool
    mtime_ns: int
    inode: int


class LeftOut(msgspec.Struct, frozen=True):
    """A path that is not published, printable, and why."""

    path: str
    reason: str


class TreeScan(msgspec.Struct, frozen=True, kw_only=True):
    """One walk over a tree. files are sorted by path.

    directories: each with its time of modification, in ns, from before it was read.
    left_out: what someone may have expected to travel; to be named in the log.
    transient: locks and leftovers of interrupted writes, counted only: every tree has them.
    """

    layout: str
    path: str
    files: tuple[ScannedFile, ...]
    directories: tuple[tuple[str, int], ...]
    left_out: tuple[LeftOut, ...]
    transient: int


def find_trees(cache_root: str) -> list[FoundTree]:
    """The trees under a cache root, sorted by layout and hash; none where there is no such root.

    Raises LocalError if a directory on the way cannot be read.
    """
    found = []
    for layout, home in _HOMES:
        directory = os.path.join(cache_root, home)
        try:
            with os.scandir(directory) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise LocalError(
                f"cannot look for {layout} trees in {directory}: {error.strerror}; "
                "give this user read access to the cache root"
            ) from error
        found += [
            FoundTree(layout, name, os.path.join(directory, name))
            for name in sorted(names)
            if _is_hash(layout, name)
        ]
    return found


def _is_hash(layout: str, name: str) -> bool:
    try:
        check_hash(layout, name)
    except InvalidNameError:
        return False
    return True


def scan_tree(layout: str, path: str) -> TreeScan:
    """List the files of a tree. A tree may be written to meanwhile: what vanishes is not listed.

    Symbolic links are neither followed nor entered. Raises LocalError if the tree's own directory
    is gone or cannot be read; below it, what cannot be read is named in `left_out`.
    """
    files: list[ScannedFile] = []
    directories: list[tuple[str, int]] = []
    left_out: list[LeftOut] = []
    transient = 0
    todo = [""]
    while todo:
        parent = todo.pop()
        try:
            directories.append((parent, os.stat(os.path.join(path, parent)).st_mtime_ns))
            with os.scandir(os.path.join(path, parent)) as entries:
                listed = list(entries)
        except OSError as error:
            if not parent:
                raise LocalError(
                    f"cannot read the {layout} tree {path}: {error.strerror}"
                ) from error
            if not isinstance(error, FileNotFoundError):
                left_out.append(LeftOut(printable(parent), f"cannot be read: {error.strerror}"))
            continue
        for entry in listed:
            if never(entry.name):
                transient += 1
                continue
            relative = f"{parent}/{entry.name}" if parent else entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(relative)
                    continue
                file = _look_at(layout, relative, entry)
            except FileNotFoundError:
                continue
            except OSError as error:
                file = f"cannot be read: {error.strerror}"
            if isinstance(file, ScannedFile):
                files.append(file)
            else:
                left_out.append(LeftOut(printable(relative), file))
    files.sort(key=lambda file: file.path)
    left_out.sort(key=lambda item: item.path)
    return TreeScan(
        layout=layout,
        path=path,
        files=tuple(files),
        directories=tuple(directories),
        left_out=tuple(left_out),
        transient=transient,
    )


def _look_at(layout: str, relative: str, entry: os.DirEntry[str]) -> ScannedFile | str:
    """The file, or why it is left out."""
    status = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        return _KINDS.get(stat.S_IFMT(status.st_mode), "not a file")
    part_dir = classify_entered(layout, relative)
    if part_dir is None:
        return f"not a file of a {layout} tree"
    if status.st_size == 0 and layout == VLLM_AOT and entry.name == "model":
        return "empty: the engine failed while it saved its model"
    return ScannedFile(
        relative,
        part_dir,
        status.st_size,
        bool(status.st_mode & stat.S_IXUSR),
        status.st_mtime_ns,
        status.st_ino,
    )


def locks_held(path: str) -> list[str]:
    """The Inductor locks of the tree at `path` that a live process holds, relative to it.

    Raises LocalError if a lock cannot be tested.
    """
    directories = (found for pattern in _LOCKS for found in iglob(pattern, root_dir=path))
    return [
        os.path.join(directory, name)
        for directory in directories
        for name in _list_locks(os.path.join(path, directory))
        if _is_held(os.path.join(path, directory, name))
    ]


def _list_locks(directory: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if name.endswith(".lock"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _untestable(directory, error) from error


def _is_held(lock: str) -> bool:
    # Inductor's locks are filelock's: flock on a file that may stay when the lock is released, so
    # that the file says nothing, and a process id would be of no use in another container. The
    # kernel knows: a shared lock, asked for without waiting, is refused while an exclusive one is
    # held, by whomever. It needs no write access, and a filelock user who meets it in the instant
    # that it lasts just polls once more.
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False  # a symbolic link is nobody's lock
        raise _untestable(lock, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise _untestable(lock, error) from error
    finally:
        os.close(fd)  # releases it
    return False


def _untestable(lock: str, error: OSError) -> LocalError:
    return LocalError(
        f"cannot tell what is held of {lock}: {error.strerror}; run this as the engine's user, "
        "on a file system with flock"
    )


def holds_cpp(scan: TreeScan) -> bool:
    """Does the tree hold C++ built for this CPU, so that the CPU's digest belongs to its platform?

    Triton's own helpers are not: it builds them without -march=native.
    """
    return any(file.path.endswith(".so") and not _is_triton(file.path) for file in scan.files)


def _is_triton(path: str) -> bool:
    return _DEVICE.search(path) is not None or "/triton_cache/" in path


def devices(scan: TreeScan) -> tuple[int, ...]:
    """The local device indices that the tree holds Triton kernels for, ascending."""
    found = (_DEVICE.search(file.path) for file in scan.files)
    return tuple(sorted({int(match[1]) for match in found if match}))


def tree_folders(cache_root: str) -> list[str]:
    """The directories of a cache root in which trees lie, whether they exist or not."""
    return [os.path.join(cache_root, home) for _, home in _HOMES]


def tree_path(cache_root: str, layout: str, tree_hash: str) -> str:
    """Where the tree of this hash lies, or would, under a cache root. Absolute. Raises
    InvalidNameError."""
    name = check_hash(layout, tree_hash)
    return os.path.join(os.path.abspath(cache_root), dict(_HOMES)[layout], name)
