"""`GET /v1/trees`, `GET|DELETE /v1/trees/{hash}`, `PUT|DELETE /v1/trees/{hash}/pin`: what is
stored."""

from __future__ import annotations

from dataclasses import dataclass

from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.lookup import StoredPart
from aotcache.protocol.v1.quarantine import QuarantinedPart

SORTS = ("created", "used", "hash", "raw_bytes", "stored_bytes")
VALUES = ("layout", "engine", "model", "platform_id", "publisher")  # that lists are filtered by
MAX_LIMIT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSummary:
    """A tree in a list. Times are Unix seconds; used: last lookup that found it (0: never).

    stored_bytes: of the packs' frames its files are in, each frame counted once. withheld: parts
    that are stored and not served: quarantined, or of a revoked key. Sizes and files are those of
    its parts, these among them. missing: expected parts that are neither. quarantined: some part
    is, and no other generation serves in its place.
    """

    namespace: str
    layout: str
    hash: str
    platform_id: str
    platform: Platform
    recipe: Recipe | None
    parts: tuple[str, ...]
    missing: tuple[str, ...]
    files: int
    raw_bytes: int
    stored_bytes: int
    compile_seconds: float | None
    publisher: str
    created: int
    used: int
    lookups: int
    outcomes: dict[str, int]
    pinned: bool = False
    quarantined: bool = False
    withheld: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePage:
    """cursor: pass it back for the next page; empty: this was the last."""

    trees: tuple[TreeSummary, ...]
    cursor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGeneration:
    """One that is stored. state: `served`, `replaced` by another one, `quarantined`, `revoked`."""

    part: StoredPart
    state: str
    created: int
    publisher: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeDetail:
    """parts: what is served. generations: of all its parts, the last one of each first.
    quarantined: which are, and why. saved_seconds: of compiling, less those of all pulls."""

    tree: TreeSummary
    parts: tuple[StoredPart, ...]
    hash_factors: dict[str, str]
    notes: dict[str, str]
    generations: tuple[StoredGeneration, ...] = ()
    quarantined: tuple[QuarantinedPart, ...] = ()
    saved_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeDetails:
    """Every tree of one hash: one per layout and platform."""

    trees: tuple[TreeDetail, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """The trees that were deleted: not looked up any more, manifests gone; packs go later."""

    trees: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """The trees that are pinned now, or not any more."""

    trees: tuple[str, ...]
