"""`POST /v1/collect`, `GET /v1/collect`: delete what need not be kept any more."""

from __future__ import annotations

from dataclasses import dataclass

from aotcache.errors import UsageError

MAX_NAMED = 1000  # trees of a report
MAX_DAYS = 36_500
MAX_BYTES = (1 << 63) - 1
MAX_PER_RECIPE = 1_000_000
_MOST = {"days": MAX_DAYS, "bytes": MAX_BYTES, "per_recipe": MAX_PER_RECIPE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Which trees are kept; 0: of that all. What is pinned always is.

    days: since a tree was last looked up or published. bytes: of packs in all, the least recently
    used trees go first. per_recipe: of one recipe, layout and platform as many trees as so many
    starts use, the last used ones.
    """

    days: int = 0
    bytes: int = 0
    per_recipe: int = 0

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            if not 0 <= getattr(self, name) <= most:
                raise UsageError(f"{name} to keep: 0 to {most}, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect:
    """keep: None: as the service was started. dry_run: only say what would be done. reconcile_only:
    delete nothing, only compare index and storage."""

    keep: Keep | None = None
    dry_run: bool = False
    reconcile_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """used: when it was last looked up or published."""

    namespace: str
    layout: str
    hash: str
    platform: str
    reason: str
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What was found in storage and index, and made the same. In a dry run, what would be.

    trees, parts: that the index holds now. added: manifests that it did not have. skipped: those
    that cannot be read or whose packs are not there, and stay as they are. withdrawn: manifests
    that are not there any more, or lost a pack: not served from now on. removed: manifests of what
    is deleted. marked: pins, deletions, quarantines and revoked keys that had lost their mark in
    storage. Of the names at most MAX_NAMED.
    """

    dry_run: bool
    trees: int
    parts: int
    added: int
    skipped: tuple[str, ...]
    withdrawn: tuple[str, ...]
    removed: int
    marked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """trees: the first MAX_NAMED of deleted_trees. Of packs, those that nothing refers to any more
    are condemned, and deleted when they have been so for the time of grace; mostly dead ones are
    rewritten. kept_bytes: of all that something refers to. In a dry run all of these would be so.
    reconciled: what was done before."""

    dry_run: bool
    reconciled: Reconciled
    trees: tuple[Gone, ...]
    deleted_trees: int
    condemned_packs: int
    condemned_bytes: int
    deleted_packs: int
    deleted_bytes: int
    rewritten_packs: int
    rewritten_bytes: int
    kept_bytes: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """The last one. Times are Unix seconds, 0 for never. running: it has not ended. error: why it
    ended without a report. reconciled: where nothing else was to be done. done: when the last one
    that deleted what it had to ended."""

    running: bool
    started: int
    finished: int
    report: Collected | None = None
    reconciled: Reconciled | None = None
    error: str = ""
    done: int = 0
