"""What object storage holds, by its keys alone."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field

from aotcache.errors import InvalidNameError
from aotcache.protocol.names import (
    PartName,
    TreeKey,
    manifest_key,
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
    """manifests: keys, of which there may be millions: they are parsed when they are needed. packs:
    sizes by namespace and name. marks: keys of all of them. deleted: by tree, part. dead: manifests
    of what is deleted, which a deletion that was cut off has left. revoked: (namespace, key id)."""

    manifests: set[str] = field(default_factory=set)
    packs: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
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
            self.packs[parse_pack_key(key).namespace][pieces[-1]] = size
        elif pieces[1] == "trees":
            parse_manifest_key(key)  # somebody else's are none of ours
            self.manifests.add(key)
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
        folders = {_folder(manifest_key(*place, 1)) for place in self.deleted}
        for key in [key for key in self.manifests if _folder(key) in folders]:
            name = parse_manifest_key(key)
            if name.generation <= self.deleted[name.tree, name.part]:
                self.manifests.remove(key)
                self.dead.append(key)


def _folder(manifest: str) -> str:
    """Of all generations of its part."""
    return manifest.rpartition("/")[0]


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
