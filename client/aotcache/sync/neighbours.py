"""Neighbours: what other parts and trees of the same recipe hold already, and what is nearly it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from posixpath import basename

from aotcache.core.places import Places
from aotcache.errors import FormatError, ObjectMissingError, PackError, TrustError
from aotcache.protocol.manifest import MAX_FRAME, FileEntry
from aotcache.sync.fetch import Fetcher
from aotcache.sync.site import Site

logger = logging.getLogger(__name__)

_WORTH = 64 << 10  # a smaller model is not worth a frame of its own


class Neighbours:
    """Adds the places of all blobs in neighbouring manifests to `places`: they need no upload."""

    def __init__(
        self, site: Site, namespace: str, manifests: Sequence[str], places: Places
    ) -> None:
        self._places = places
        self._fetcher = Fetcher(site.store, namespace, places, lambda _stored: None)
        self._models: dict[str, str] = {}
        self._read: dict[str, bytes | None] = {}
        for key in manifests:
            try:
                manifest = site.manifest(key)
            except (ObjectMissingError, FormatError, TrustError) as error:
                # A neighbour only saves bytes; one that cannot be used is left aside.
                logger.info("neighbour %s is left aside: %s", key, error)
                continue
            places.add_manifest(manifest)
            for entry in manifest.statement.files:
                if self.is_model(entry) and entry.path not in self._models:
                    place = places.by_digest[entry.digest]
                    # A prefix has none itself: go on to the blob this one was compressed against.
                    base = next(iter(places.prefixes_of(place)), entry.digest)
                    if base in places.by_digest:
                        self._models[entry.path] = base

    @staticmethod
    def is_model(entry: FileEntry) -> bool:
        """A serialized forward: two of them are nearly equal, and of a size to be a prefix."""
        return basename(entry.path) == "model" and _WORTH <= entry.size <= MAX_FRAME

    def base_of(self, entry: FileEntry) -> str | None:
        """Digest of a stored blob that this model is nearly equal to: the neighbour's of the same
        rank, or of any rank."""
        known = [self._models.get(entry.path), *self._models.values()]
        return next((digest for digest in known if digest in self._places.by_digest), None)

    def prefix_for(self, entry: FileEntry) -> tuple[str, Callable[[], bytes | None]] | None:
        """The base and a reader of its bytes, which gives None where they cannot be read."""
        digest = self.base_of(entry)
        return None if digest is None else (digest, lambda: self._prefix(digest))

    def _prefix(self, digest: str) -> bytes | None:
        if digest not in self._read:  # most ranks share one, and one is held at a time
            try:
                self._read = {digest: self._fetcher.read(digest)}
            except (ObjectMissingError, PackError) as error:
                logger.warning("a neighbour's model is left aside: %s", error)
                self._read = {digest: None}
        return self._read[digest]
