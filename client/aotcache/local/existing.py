"""What of a part lies on this disk already, and whether it can be pulled beside it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from posixpath import basename

import msgspec
from blake3 import blake3

from aotcache.errors import LocalError
from aotcache.protocol.manifest import NOT_RELOCATED, FileEntry

# torch replaces these in place as it tunes: none is wrong.
REWRITTEN = (".best_config", ".kernel_perf", ".picked_kernel")


class Compared(msgspec.Struct, frozen=True):
    """missing: the files to install. kept: how many are there with another size than asked for: a
    compile of this node's own writes the same names with other, equally good bytes. models: what
    is to be said of each `model` that is not the part's; those are kept, and counted, too."""

    missing: list[FileEntry]
    kept: int
    models: list[str]


def compare(files: Iterable[FileEntry], tree_path: str) -> Compared:
    """Existing files are never replaced, and another `model` is no reason to fail: the engine would
    load it without us too. It may have been compiled here, or be another device's or platform's, or
    the empty one that a failed save leaves. Raises LocalError for what cannot be read."""
    if not os.path.lexists(tree_path):
        return Compared(list(files), 0, [])
    missing: list[FileEntry] = []
    models: list[str] = []
    kept = 0
    for entry in files:
        path = os.path.join(tree_path, entry.path)
        try:
            found = os.lstat(path)
            if basename(entry.path) == "model":
                why = _other_model(path, found, entry)
                kept += why is not None
                models += [why] if why else []
            elif _comparable(entry) and (
                not stat.S_ISREG(found.st_mode) or found.st_size != entry.size
            ):
                kept += 1
        except (FileNotFoundError, NotADirectoryError):
            missing.append(entry)
        except OSError as error:
            raise LocalError(f"cannot read {path}: {error.strerror}") from error
    return Compared(missing, kept, models)


def _comparable(entry: FileEntry) -> bool:
    """A relocated file is as long as the place it lies at makes it."""
    return entry.relocate == NOT_RELOCATED and not entry.path.endswith(REWRITTEN)


def _digest(path: str) -> str:
    hasher = blake3()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()


def _other_model(path: str, found: os.stat_result, entry: FileEntry) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        why = "is not a file"
    elif found.st_size == 0:
        why = "is empty, as a failed save leaves it"
    elif found.st_size != entry.size or _digest(path) != entry.digest:
        why = "is not the one that is stored"
    else:
        return None
    return (
        f"{path} {why}, and stays, as existing files are never replaced. If it was compiled here "
        "and works, all is well; else delete it (its whole tree, where that is another device's or "
        "platform's) and pull again"
    )
