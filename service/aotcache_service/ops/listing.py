"""What object storage holds, by its keys alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from aotcache.errors import InvalidNameError
from aotcache.protocol.names import (
    PartName,
    TreeKey,
    parse_deleted_key,
    parse_manifest_key,
    parse_pack_key,
    parse_pinned_key,
    parse_quarantined_key,
    parse_revoked_key,
)
from aotcache.storage.base import ObjectStore

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Listing:
    """packs: sizes by (namespace, name). marks: keys of all of them. deleted: by tree, part. dead:
    manifests of what is deleted, which a deletion that was cut off has left. revoked: (namespace,
    key id)."""

    manifests: dict[str, PartName] = field(default_factory=dict)
    packs: dict[tuple[str, str], int] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)
    deleted: dict[tuple[TreeKey, str], int] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    quarantined: dict[str, PartName] = field(default_factory=dict)
    revoked: list[tuple[str, str]] = field(default_factory=list)
    pinned: list[TreeKey] = field(default_factory=list)

    def add(self, key: str, size: int) -> None:
        pieces = key.split("/")
        if pieces[1] == "marks":
            self.marks.add(key)
        if pieces[1] == "packs":
            self.packs[parse_pack_key(key).namespace, pieces[-1]] = size
        elif pieces[1] == "trees":
            self.manifests[key] = parse_manifest_key(key)
        elif pieces[1:3] == ["marks", "deleted"]:
            name = parse_deleted_key(key)
            place = (name.tree, name.part)
            self.deleted[place] = max(self.deleted.get(place, 0), name.generation)
        elif pieces[1:3] == ["marks", "quarantined"]:
            self.quarantined[key] = parse_quarantined_key(key)
        elif pieces[1:3] == ["marks", "revoked"]:
            self.revoked.append(parse_revoked_key(key))
        elif pieces[1:3] == ["marks", "pinned"]:
            self.pinned.append(parse_pinned_key(key))

    def part_dead(self) -> None:
        """Once all keys are there."""
        for key, name in list(self.manifests.items()):
            if name.generation <= self.deleted.get((name.tree, name.part), 0):
                del self.manifests[key]
                self.dead.append(key)


def list_storage(store: ObjectStore) -> Listing:
    """All of it: a request for about a thousand objects. Raises StorageUnavailableError."""
    listing = Listing()
    for found in store.list(""):
        try:
            listing.add(found.key, found.size)
        except InvalidNameError as error:
            log.warning("%s is none of ours: %s", found.key, error)
    listing.part_dead()
    return listing
