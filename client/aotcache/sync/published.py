"""What a publish did."""

from __future__ import annotations

import msgspec

from aotcache.probe.trees import LeftOut
from aotcache.protocol.names import TreeKey

PUBLISHED = "published"
ALREADY_STORED = "already stored"


class PublishedPart(msgspec.Struct, frozen=True, kw_only=True):
    """status: `published`, or `already stored`. new_files: that this generation adds."""

    part: str
    generation: int
    files: int
    new_files: int
    status: str


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What a publish did. left_out: each file that is not stored, and why."""

    tree: TreeKey
    path: str
    parts: tuple[PublishedPart, ...]
    left_out: tuple[LeftOut, ...]
    raw_bytes: int
    uploaded_bytes: int
    seconds: float
