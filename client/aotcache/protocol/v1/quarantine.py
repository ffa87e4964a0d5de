"""`GET /v1/quarantine`, `POST /v1/quarantine/release`: parts that nodes failed with.

A part is quarantined when so many nodes told that it did not load or made the engine crash, and
none that it loaded. It is then answered as a miss until an admin releases or deletes it, or until
somebody publishes another one.
"""

from __future__ import annotations

from dataclasses import dataclass

from aotcache.protocol.names import (
    DEFAULT_NAMESPACE,
    check_hash,
    check_namespace,
    check_part,
)

MAX_QUARANTINED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedPart:
    """generation: the last one that is. since: Unix seconds. reason: what the nodes told."""

    namespace: str
    layout: str
    hash: str
    platform: str
    part: str
    generation: int
    reason: str
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """The last ones first, at most MAX_QUARANTINED."""

    parts: tuple[QuarantinedPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Of every platform. Empty part: all of them."""

    layout: str
    hash: str
    part: str = ""
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        check_hash(self.layout, self.hash)
        if self.part:
            check_part(self.part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    parts: tuple[QuarantinedPart, ...]
