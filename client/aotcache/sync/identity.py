"""What a tree on this disk is: its platform, its parts, its recipe, from records beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aotcache.errors import FormatError, UsageError
from aotcache.local.records import record_path
from aotcache.probe.trees import FoundTree, TreeScan, devices, holds_cpp
from aotcache.protocol.names import SHARED, check_part, part_directory
from aotcache.protocol.platform import Platform, differences
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import EngineRecord, TreeUsed, all_trees


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """platform: as it enters the key. parts: name of the part for each directory that holds one
    (`shared`, `rank_0_0`)."""

    platform: Platform
    parts: dict[str, str]
    recipe: Recipe | None = None
    expected_parts: tuple[str, ...] = ()
    compile_seconds: float | None = None
    hash_factors: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    trees: tuple[TreeUsed, ...] = ()


def identify(
    tree: FoundTree,
    scan: TreeScan,
    records: Sequence[EngineRecord],
    platform: Platform | None = None,
) -> Identity:
    """Raises UsageError and FormatError as `platform_of` does, and UsageError where nothing says
    which rank ran on which device."""
    keyed = keyed_platform(scan, platform_of(tree, records, platform))
    first = records[0] if records else None
    seconds = [r.compile_seconds for r in records if r.compile_seconds is not None]
    return Identity(
        platform=keyed,
        parts=_parts(tree, scan, records, keyed),
        recipe=first.recipe if first else None,
        expected_parts=first.expected_parts if first else (),
        compile_seconds=max(seconds, default=None),
        hash_factors=first.hash_factors if first else {},
        notes=first.notes if first else {},
        trees=all_trees(record.trees for record in records),
    )


def platform_of(
    tree: FoundTree, records: Sequence[EngineRecord], platform: Platform | None = None
) -> Platform:
    """What the tree was compiled for. The records say it; `platform` only where there are none, so
    that one `--platform detect` serves a cache root that also holds other Pythons' recorded trees.

    Raises UsageError where neither says it or the records disagree, FormatError for a record of
    another tree.
    """
    for record in records:
        if (record.layout, record.hash) != (tree.layout, tree.hash):
            raise FormatError(
                f"{record_path(tree.path, record.part)} is the engine record of "
                f"{record.layout}/{record.hash[:12]}, not of {tree.layout}/{tree.hash[:12]}: "
                "delete it, and find out who copied it there"
            )
    if not records:
        if platform is not None:
            return platform
        raise UsageError(
            f"{tree.path} has no engine record, so nothing says which platform it was compiled "
            "for: say --platform detect if it was compiled on this machine by this Python, or "
            "--platform FILE"
        )
    for record in records[1:]:
        if record.platform != records[0].platform:
            fields = [d.field for d in differences(record.platform, records[0].platform)]
            raise UsageError(
                f"the engine records of {tree.path} name different platforms "
                f"({', '.join(fields)}): delete the tree and its records, and let the engine "
                "compile again"
            )
    return records[0].platform


def keyed_platform(scan: TreeScan, platform: Platform) -> Platform:
    """As it enters the key. Compiled C++ runs only on such CPUs; a tree without any runs on all."""
    return platform if platform.device == "cpu" or holds_cpp(scan) else platform.for_any_cpu()


def _parts(
    tree: FoundTree, scan: TreeScan, records: Sequence[EngineRecord], platform: Platform
) -> dict[str, str]:
    folders = sorted({file.part_dir for file in scan.files})
    recorded: dict[str, str] = {}
    for part in (record.part for record in records if record.part != SHARED):
        if recorded.setdefault(part_directory(part), part) != part:
            raise UsageError(
                f"the engine records of {tree.path} name {recorded[part_directory(part)]} and "
                f"{part}, so nothing says which device it was compiled for: delete the tree and "
                "its records, and let the engine compile again"
            )
    ranks = [folder for folder in folders if folder != SHARED]
    guessed = _guess_devices(tree, scan, ranks, platform) if set(ranks) - set(recorded) else {}
    return {
        folder: SHARED if folder == SHARED else recorded.get(folder) or guessed[folder]
        for folder in folders
    }


def _guess_devices(
    tree: FoundTree, scan: TreeScan, ranks: list[str], platform: Platform
) -> dict[str, str]:
    """Without a record: a CPU has one device; as many devices as ranks are taken in order, as
    launchers do. Anything else could hand a rank another device's kernels."""
    if platform.device == "cpu":
        return {rank: check_part(f"{rank}-d0") for rank in ranks}
    found = sorted(devices(scan))
    ordered = sorted(ranks, key=lambda rank: [int(number) for number in rank.split("_")[1:]])
    if len(found) != len(ranks):
        raise UsageError(
            f"{tree.path} holds {len(ranks)} ranks and kernels of {len(found)} devices, so nothing "
            "says which rank ran on which: publish it with the engine's record beside it"
        )
    return {
        rank: check_part(f"{rank}-d{device}") for rank, device in zip(ordered, found, strict=True)
    }
