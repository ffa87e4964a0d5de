"""`GET|POST /v1/quarantine`, `POST /v1/quarantine/release`: parts that nodes failed with.

A part is quarantined when so many nodes told that it did not load or made the engine crash, and
none that it loaded, or when an admin says so. It is then answered as a miss until an admin releases
or deletes it, or until somebody publishes another one.
"""

from __future__ import annotations

from dataclasses import dataclass

from aotcache.errors import UsageError
from aotcache.protocol.names import (
    DEFAULT_NAMESPACE,
    check_generation,
    check_hash,
    check_namespace,
    check_part,
    check_platform_id,
)

MAX_QUARANTINED = 1000
MAX_REASON = 500  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedPart:
    """first, generation: the first and last one that is. since: Unix seconds. reason: what the
    nodes told, or an admin said."""

    namespace: str
    layout: str
    hash: str
    platform: str
    part: str
    generation: int
    reason: str
    since: int
    first: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """The last ones first, at most MAX_QUARANTINED."""

    parts: tuple[QuarantinedPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """What is served of the trees of a hash; empty part, platform: all of them. reason: for those
    who miss. after: only generations after this one: the last that is left is served; 0: all."""

    layout: str
    hash: str
    reason: str
    part: str = ""
    platform: str = ""
    namespace: str = DEFAULT_NAMESPACE
    after: int = 0

    def __post_init__(self) -> None:
        _check(self)
        if self.after:
            check_generation(self.after)
        said = self.reason.strip()
        if not said or len(said) > MAX_REASON or not said.isprintable():
            raise UsageError(
                f"say in one line of at most {MAX_REASON} characters why it is quarantined"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Empty part, platform: all of them."""

    layout: str
    hash: str
    part: str = ""
    platform: str = ""
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    parts: tuple[QuarantinedPart, ...]


def _check(asked: Quarantine | Release) -> None:
    check_namespace(asked.namespace)
    check_hash(asked.layout, asked.hash)
    if asked.part:
        check_part(asked.part)
    if asked.platform:
        check_platform_id(asked.platform)
