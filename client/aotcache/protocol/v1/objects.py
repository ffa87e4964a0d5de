"""`/v1/objects/{key}`: bytes through the service, for nodes without storage credentials.

PUT puts if absent (409 `object_exists`); GET honours one `Range: bytes=a-b`; HEAD; DELETE.
`GET /v1/objects?prefix=…&after=…` lists.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedObject:
    key: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPage:
    """after: the last key, to be passed back; empty: this was the last page."""

    objects: tuple[ListedObject, ...]
    after: str = ""
