"""`GET /v1/stats`: what is stored, and what it has saved."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_MODELS = 20
MAX_DRIFT = 10
DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStats:
    """Bytes: of the frames its trees are in, shared ones counted with each. model: empty where the
    publisher did not know it."""

    model: str
    trees: int
    stored_bytes: int
    lookups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A recipe whose starts on one platform look for many hashes: something that is no part of it
    changes them. expected: how many one start uses. device, torch: of the platform."""

    namespace: str
    model: str
    layout: str
    platform: str
    hashes: int
    expected: int
    device: str = ""
    torch: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Of one namespace, or of all that the token may read; counted a minute ago at most. counted:
    when, Unix seconds. found, missed: lookups of the last DAYS days, those by reason.

    packs, pack_bytes: by state, `live` or `condemned`. lookups: that found something. outcomes: by
    kind. pull_seconds, pull_bytes: as nodes told. saved_seconds: compile seconds of what was
    loaded, less those of its pulls. finished: when jobs that did all of
    their work ended last, by name, Unix seconds. models:
    those that take the most, at most MAX_MODELS. drift: the worst first, at most MAX_DRIFT.
    """

    trees: int
    parts: int
    pinned: int
    quarantined: int
    packs: dict[str, int]
    pack_bytes: dict[str, int]
    lookups: int
    outcomes: dict[str, int]
    pull_seconds: float
    pull_bytes: int
    saved_seconds: float
    finished: dict[str, int]
    models: tuple[ModelStats, ...]
    drift: tuple[Drift, ...] = ()
    counted: int = 0
    found: int = 0
    missed: dict[str, int] = field(default_factory=dict)
