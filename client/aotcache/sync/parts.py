"""Parts: which of a stored tree's a pull takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from aotcache.errors import RemoteError, UsageError
from aotcache.protocol.names import SHARED, part_directory
from aotcache.protocol.v1.lookup import Hit, Lookup, StoredPart


def choose_parts(hit: Hit, lookup: Lookup) -> list[StoredPart]:
    """Those asked for, or all; the shared one comes last. Raises RemoteError where the service does
    not say where they lie, and UsageError where a disk has no room for all of them."""
    left = set(lookup.parts) - {part.part for part in hit.parts}
    if left or not hit.parts:
        raise RemoteError(
            f"the service says that {hit.layout}/{hit.hash[:12]} is stored, and not where "
            f"{', '.join(sorted(left)) or 'any part'} lies: run `aotcache reindex` there"
        )
    chosen = [part for part in hit.parts if not lookup.parts or part.part in lookup.parts]
    if len({part.part for part in chosen}) < len(chosen):
        raise RemoteError(
            f"the service names a part of {hit.layout}/{hit.hash[:12]} twice: nothing was "
            "installed; run `aotcache reindex` there"
        )
    for directory, names in several_devices(part.part for part in chosen).items():
        raise UsageError(
            f"{hit.layout}/{hit.hash[:12]} holds {directory} compiled for several devices "
            f"({', '.join(names)}), and a disk has room for one: say which with --part"
        )
    return sorted(chosen, key=lambda part: part.part == SHARED)


def several_devices(parts: Iterable[str]) -> dict[str, list[str]]:
    """Parts of which a disk has room for one: the same rank on another device, in another
    topology. By directory."""
    by_directory: dict[str, list[str]] = defaultdict(list)
    for part in parts:
        if part != SHARED:
            by_directory[part_directory(part)].append(part)
    return {directory: names for directory, names in by_directory.items() if len(names) > 1}
