"""What a publish did."""

from __future__ import annotations

from dataclasses import dataclass

from aotcache.probe.trees import LeftOut
from aotcache.protocol.names import TreeKey

PUBLISHED = "published"
ALREADY_STORED = "already stored"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPart:
    """status: `published`, or `already stored`. new_files: that this generation adds."""

    part: str
    generation: int
    files: int
    new_files: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a publish did. left_out: each file that is not stored, and why."""

    tree: TreeKey
    path: str
    parts: tuple[PublishedPart, ...]
    left_out: tuple[LeftOut, ...]
    raw_bytes: int
    uploaded_bytes: int
    seconds: float
