"""The engine record: what the compiling process knows and a watcher cannot.

The compiling process writes it beside the tree, never inside; watchers and sidecars read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from aotcache.errors import FormatError, UsageError
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.names import check_hash, check_part
from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe

RECORD_VERSION = 1
MAX_RECORD = 1 << 20
MAX_TREES_USED = 64
MAX_SECONDS = 1e9
MAX_FACTORS = 1000  # of what the engine hashed; as many notes
MAX_FACTOR = 4096  # characters of a name or value
MAX_FACTORS_IN_ALL = 1 << 20  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeUsed:
    """One of the trees that a start used, and how long it took to compile (None: not known)."""

    layout: str
    hash: str
    compile_seconds: float | None = None

    def __post_init__(self) -> None:
        check_hash(self.layout, self.hash)
        # NaN is in no range.
        if self.compile_seconds is not None and not 0 <= self.compile_seconds <= MAX_SECONDS:
            raise ValueError(f"compile_seconds is not 0 to {MAX_SECONDS:.0f}")


def check_factors(found: Mapping[str, str]) -> None:
    """Of hash_factors, and of notes. Raises UsageError."""
    if len(found) > MAX_FACTORS:
        raise UsageError(f"there are at most {MAX_FACTORS} hash factors or notes, not {len(found)}")
    if any(not name.isprintable() for name in found):
        raise UsageError("the name of a hash factor or note is printable")
    sizes = [len(text) for one in found.items() for text in one]
    if max(sizes, default=0) > MAX_FACTOR or sum(sizes) > MAX_FACTORS_IN_ALL:
        raise UsageError(
            f"a hash factor or note has at most {MAX_FACTOR} characters, and all together "
            f"{MAX_FACTORS_IN_ALL}"
        )


def all_trees(several: Iterable[Iterable[TreeUsed]]) -> tuple[TreeUsed, ...]:
    """Each tree once, in order of first appearance, with the longest time that anybody gives."""
    found: dict[tuple[str, str], TreeUsed] = {}
    for one in (tree for trees in several for tree in trees):
        known = found.setdefault((one.layout, one.hash), one)
        if _seconds(one) > _seconds(known):
            found[one.layout, one.hash] = one
    return tuple(found.values())


def _seconds(tree: TreeUsed) -> float:
    return -1.0 if tree.compile_seconds is None else tree.compile_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """What one process of the engine says about one tree.

    part             the rank's part with its device index, or `shared` where there are no ranks
    expected_parts   every part the tree has when all ranks have saved; empty: not known
    compile_seconds  what this compile took; None: not known
    hash_factors     what the engine hashed, to tell later why two hashes differ
    notes            recorded to explain, never compared: driver, compiler, engine source, CPU name
    trees            all trees this start used, this one included; at most MAX_TREES_USED
    """

    version: int = RECORD_VERSION
    layout: str
    hash: str
    part: str
    platform: Platform
    recipe: Recipe | None = None
    expected_parts: tuple[str, ...] = ()
    compile_seconds: float | None = None
    hash_factors: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    trees: tuple[TreeUsed, ...] = ()

    def __post_init__(self) -> None:
        check_hash(self.layout, self.hash)
        check_part(self.part)
        for part in self.expected_parts:
            check_part(part)
        if len(self.trees) > MAX_TREES_USED:
            raise ValueError(f"an engine record names at most {MAX_TREES_USED} trees")


def encode_record(record: EngineRecord) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record)) + b"\n"


def decode_record(data: bytes) -> EngineRecord:
    if len(data) > MAX_RECORD:
        raise FormatError(f"an engine record has at most {MAX_RECORD} bytes, this has {len(data)}")
    try:
        record = decode_json(data, EngineRecord)
    except FormatError as error:
        raise FormatError(f"not an engine record: {error}") from error
    if record.version != RECORD_VERSION:
        raise FormatError(
            f"engine record of version {record.version}; this aotcache reads {RECORD_VERSION}: "
            "upgrade it on the machine that publishes"
        )
    return record
