"""Plan: which files the next generation of a part has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass

from aotcache.errors import InvalidNameError, TrustError
from aotcache.local.journal import Described
from aotcache.probe.trees import FoundTree, LeftOut, ScannedFile
from aotcache.protocol.manifest import EXECUTABLE, PLAIN, FileEntry, Manifest, Statement
from aotcache.protocol.names import TreeKey, manifest_key
from aotcache.protocol.paths import check_paths
from aotcache.protocol.v1.publish import PartState


@dataclass(slots=True, kw_only=True)
class PartPlan:
    """files: all of the next generation; old: how many of them the newest has. left_out: what
    cannot lie beside them. previous: the newest. data: the manifest that was put, as this node
    keeps it; taken: what the one says that was there already."""

    state: PartState
    manifest_key: str
    files: tuple[FileEntry, ...]
    old: int
    left_out: tuple[LeftOut, ...]
    previous: Manifest | None
    data: bytes = b""
    taken: Statement | None = None

    @property
    def new(self) -> int:
        return len(self.files) - self.old


def plan_part(
    key: TreeKey,
    state: PartState,
    previous: Manifest | None,
    files: Iterable[ScannedFile],
    described: Mapping[str, Described],
) -> PartPlan:
    """The next generation of a part: all that the newest has, and the paths it lacks."""
    old = previous.statement.files if previous else ()
    stored = [entry.path for entry in old]
    scanned = {file.path: file for file in files}
    paths, left_out = _without_collisions(stored, sorted(scanned.keys() - set(stored)))
    new = [_entry(scanned[path], described[path]) for path in paths]
    return PartPlan(
        state=state,
        manifest_key=manifest_key(key, state.part, state.next_generation),
        files=tuple(sorted([*old, *new], key=lambda entry: entry.path)),
        old=len(old),
        left_out=tuple(left_out),
        previous=previous,
    )


def check_listed(
    tree: FoundTree,
    files: Iterable[ScannedFile],
    described: Mapping[str, Described],
    listed: Set[FileEntry],
) -> None:
    """Raises TrustError for a file that is described and not listed, as it is."""
    for file in files:
        known = described.get(file.path)
        if known is not None and _entry(file, known) not in listed:
            raise TrustError(
                f"{tree.path}/{file.path} is in no manifest that this machine trusts, or was "
                "changed: nothing of the tree was published; find out who wrote it"
            )


def _without_collisions(
    stored: Iterable[str], new: Iterable[str]
) -> tuple[list[str], list[LeftOut]]:
    """The new paths that may lie beside the stored ones and each other on every disk (no manifest
    may hold others: `protocol.paths.check_paths`), the first of two; and those that may not."""
    stored, new = list(stored), list(new)
    with suppress(InvalidNameError):  # as good as always none clash, and this is soon seen
        check_paths([*stored, *new])
        return new, []
    files: dict[str, str] = {}
    folders: dict[str, str] = {}  # each directory to a file in it

    def add(path: str) -> None:
        folded = path.lower()
        files[folded] = path
        parent = folded.rpartition("/")[0]
        while parent and parent not in folders:
            folders[parent] = path
            parent = parent.rpartition("/")[0]

    for path in stored:
        add(path)
    kept, left_out = [], []
    for path in new:
        folded = path.lower()
        other = files.get(folded) or folders.get(folded)
        parent = folded.rpartition("/")[0]
        # No directory that holds a file so far lies below a file.
        while other is None and parent and parent not in folders:
            other, parent = files.get(parent), parent.rpartition("/")[0]
        if other is None:
            add(path)
            kept.append(path)
        else:
            reason = f"clashes with {other}: one name in two cases, or a file and a directory"
            left_out.append(LeftOut(path, reason))
    return kept, left_out


def _entry(file: ScannedFile, described: Described) -> FileEntry:
    mode = EXECUTABLE if file.executable else PLAIN
    return FileEntry(file.path, described.size, mode, described.digest, described.relocate)
