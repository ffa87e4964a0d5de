"""The cache root and the file system it lies on."""

from __future__ import annotations

import fcntl
import mmap
import os
import pwd
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from aotcache.engines.doctor.findings import Finding, note, ok, problem
from aotcache.probe.trees import tree_folders
from aotcache.watch.events import on_network

MOUNTINFO = "/proc/self/mountinfo"
# Trees of one GPU have tens of MB and some hundred files, of eight 400 MB and 10,000.
LOW_BYTES, FEW_BYTES = 200 << 20, 2 << 30
LOW_INODES, FEW_INODES = 2_000, 20_000

_ANOTHER = "name another one with VLLM_CACHE_ROOT"


@dataclass(frozen=True, slots=True)
class Mount:
    point: str
    kind: str
    options: frozenset[str]


def mount_of(path: str, mountinfo: str = MOUNTINFO) -> Mount | None:
    """The mount that `path` lies on; None where the kernel does not tell."""
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    path = os.path.realpath(path)
    best: Mount | None = None
    for words in lines:
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # Of two on one point the later one is seen.
        if inside and (best is None or len(point) >= len(best.point)):
            best = Mount(point, words[words.index("-") + 1], frozenset(words[5].split(",")))
    return best


def user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return f"user {uid}"


def may_write(directory: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)


def check_root(cache_root: str) -> Iterator[Finding]:
    if cache_root.startswith("~"):
        yield problem(
            "cache root",
            f"{cache_root}: vLLM takes ~ as the home directory, aotcache as a name",
            "write the whole path into VLLM_CACHE_ROOT",
        )
    root = os.path.abspath(cache_root)
    existing = root
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        yield problem("cache root", f"{existing} is not a directory", _ANOTHER)
        return
    yield from _check_writable(root, existing)
    yield from _check_mount(existing)
    yield from _check_space(existing)


def _check_writable(root: str, existing: str) -> Iterator[Finding]:
    me = user(os.geteuid())
    folders = [existing] if existing != root else [root, *_folders(root)]
    for folder in folders:
        if not may_write(folder):
            if os.statvfs(folder).f_flag & os.ST_RDONLY:
                why = "its file system is mounted read-only"
            else:
                why = f"it belongs to {user(os.stat(folder).st_uid)}"
            missing = f"; {root} cannot be made" if existing != root else ""
            yield problem(
                "cache root",
                f"{folder} cannot be written by {me}, {why}{missing}",
                f"run this as the engine's user; if it is, give it the directory, or {_ANOTHER}",
            )
            return
    try:
        _try_out(folders[-1])
    except OSError as error:
        yield problem(
            "cache root",
            f"{folders[-1]}: {error.strerror}",
            f"look at its quota, space and mount, or {_ANOTHER}",
        )
        return
    if existing == root:
        yield ok("cache root", f"{root} can be written by {me}")
    else:
        yield ok("cache root", f"{root} is not there yet and can be made by {me}")


def _folders(root: str) -> list[str]:
    parents = [os.path.join(root, "torch_compile_cache"), *tree_folders(root)]
    return [folder for folder in dict.fromkeys(parents) if os.path.isdir(folder)]


def _try_out(directory: str) -> None:
    """Write a file that has no name, and lock it as Inductor does. Raises OSError that says what
    could not be done."""
    doing = "cannot be written"
    try:
        with tempfile.TemporaryFile(dir=directory, prefix=".aotcache-doctor-") as file:
            file.write(bytes(mmap.PAGESIZE))
            file.flush()
            doing = "files cannot be locked"
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OSError(error.errno, f"{doing} ({error.strerror})") from error


def _check_mount(existing: str) -> Iterator[Finding]:
    mount = mount_of(existing)
    where = f"{mount.point} ({mount.kind})" if mount else "its file system"
    if not _maps_code(existing, mount):
        yield problem(
            "cache root",
            f"{where} is mounted noexec, or a policy of this machine forbids code from there: the "
            "`.so` files of a tree cannot be loaded",
            f"mount it without noexec, or {_ANOTHER}",
        )
    if on_network(existing):
        yield note(
            "cache root",
            f"{where} is a network file system: `aotcache watch` looks every 30 seconds instead of "
            "hearing of changes, and every start reads its tree over the network",
            "a local disk is faster; aotcache fills it",
        )


def _maps_code(directory: str, mount: Mount | None) -> bool:
    if mount and "noexec" in mount.options:
        return False
    try:
        with tempfile.TemporaryFile(dir=directory, prefix=".aotcache-doctor-") as file:
            file.write(bytes(mmap.PAGESIZE))
            file.flush()
            descriptor = file.fileno()
            try:
                mmap.mmap(
                    descriptor,
                    mmap.PAGESIZE,
                    flags=mmap.MAP_PRIVATE,
                    prot=mmap.PROT_READ | mmap.PROT_EXEC,
                ).close()
            except OSError:
                return False
    except OSError:
        return True  # cannot be written: said already, and nothing else says noexec
    return True


def _check_space(existing: str) -> Iterator[Finding]:
    found = os.statvfs(existing)
    free, inodes = found.f_bavail * found.f_frsize, found.f_favail
    said = f"{free / 1e9:.1f} GB free"
    counted = found.f_files > 0  # some file systems make inodes as they need them
    if counted:
        said += f", room for {inodes} files"
    remedy = "make room: a tree of eight GPUs has 400 MB and 10,000 files"
    if free < LOW_BYTES or (counted and inodes < LOW_INODES):
        yield problem("cache root", said, remedy)
    elif free < FEW_BYTES or (counted and inodes < FEW_INODES):
        yield note("cache root", said, remedy)
    else:
        yield ok("cache root", said)
