"""Publishing: `POST /v1/publish` opens a session, `POST /v1/publish/{publish id}/commit` ends it.

The session pins the packs that the publish may refer to: what was committed when it opened is not
collected before the session expires. Between the two calls the publisher puts packs, then manifests
(bytes, then manifest, then index row); any replica answers any call.
"""

from __future__ import annotations

from dataclasses import dataclass

from aotcache.errors import UsageError
from aotcache.protocol.names import (
    DEFAULT_NAMESPACE,
    check_hash,
    check_namespace,
    check_parts,
    check_publish_id,
    parse_manifest_key,
)
from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.sections import FORMAT, FORMAT_ON_BASE

MAX_MANIFESTS = 1024  # of one commit


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSession:
    """What is about to be published.

    publish_id: a new one, or that of an interrupted publish that is resumed; resuming keeps the
    packs it has put already from being collected. parts: all parts the publisher holds.
    """

    publish_id: str
    layout: str
    hash: str
    platform: Platform
    parts: tuple[str, ...]
    recipe: Recipe | None = None
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        check_publish_id(self.publish_id)
        check_hash(self.layout, self.hash)
        check_parts(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartState:
    """A part as the index knows it.

    generation: of the newest manifest, 0 for none. next_generation: the one to publish next
    (deleted generations are never used again). manifest: object key of the newest; empty for none.
    """

    part: str
    generation: int
    next_generation: int
    manifest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """expires: Unix seconds. parts: each part asked for. neighbours: keys of manifests whose packs
    this publish may refer to: other parts of the tree, and trees of the same recipe's family.
    formats: of manifests, that the service reads; services which do not say it read these two."""

    publish_id: str
    expires: int
    parts: tuple[PartState, ...]
    neighbours: tuple[str, ...] = ()
    storage_url: str = ""
    formats: tuple[str, ...] = (FORMAT, FORMAT_ON_BASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """manifests: object keys that the publisher has put. All rows appear in one transaction.

    A manifest found in storage but not in the index (its publisher died before the commit) may be
    committed by anyone: the service reads and checks it itself.
    """

    manifests: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.manifests) > MAX_MANIFESTS:
            raise UsageError(f"a commit is of at most {MAX_MANIFESTS} manifests")
        for key in self.manifests:
            parse_manifest_key(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    manifests: tuple[str, ...]
