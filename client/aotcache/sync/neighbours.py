"""Neighbours: what other parts and trees of the same recipe hold already, and what is nearly it."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from posixpath import basename

from aotcache.core.places import Places
from aotcache.errors import FormatError, ObjectMissingError, PackError, TrustError
from aotcache.protocol.manifest import MAX_FRAME, NOT_RELOCATED, FileEntry, Manifest
from aotcache.sync.fetch import Fetcher
from aotcache.sync.site import Site

logger = logging.getLogger(__name__)

_WORTH_MODEL = 64 << 10  # a smaller model is not worth a frame of its own
# Other files: where a path of the build is in them, or a number of the configuration, they differ
# from the neighbour's in a few bytes. Fetching what they are nearly equal to must stay cheap.
_WORTH, _AT_MOST, _FILES = 4 << 10, 1 << 20, 64
_CLOSE = 0.02  # of its size a file of another name may differ from the one it is compared with
# Kernels are equal or different: nothing of a build is in them.
_KERNEL = re.compile(r"(?:.*/)?triton(?:_cache)?/.*")


class Neighbours:
    """Adds the places of all blobs in neighbouring manifests to `places`: they need no upload."""

    def __init__(
        self, site: Site, namespace: str, manifests: Sequence[str], places: Places
    ) -> None:
        self._places = places
        self._fetcher = Fetcher(site.store, namespace, places, lambda _stored: None)
        self._models: dict[str, str] = {}
        self._by_path: dict[str, str] = {}
        self._by_kind: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self._wanted: set[str] = set()
        self._small: dict[str, bytes] = {}
        self._read: dict[str, bytes | None] = {}
        for key in manifests:
            try:
                manifest = site.manifest(key)
            except (ObjectMissingError, FormatError, TrustError) as error:
                # A neighbour only saves bytes; one that cannot be used is left aside.
                logger.info("neighbour %s is left aside: %s", key, error)
                continue
            places.add_manifest(manifest)
            self._add(manifest)

    def _add(self, manifest: Manifest) -> None:
        for entry in manifest.statement.files:
            if not is_model(entry) and not _is_near(entry):
                continue
            place = self._places.by_digest[entry.digest]
            # A prefix has none itself: go on to the blob this one was compressed against.
            base = next(iter(self._places.prefixes_of(place)), entry.digest)
            if base not in self._places.by_digest:
                continue
            if is_model(entry):
                self._models.setdefault(entry.path, base)
            else:
                self._by_path.setdefault(entry.path, base)
                self._by_kind[_kind(entry.path)].append((entry.size, base))

    def base_of(self, entry: FileEntry) -> str | None:
        """Digest of a stored blob that this file is nearly equal to, if there is one: for a model
        the neighbour's of the same rank, or of any; else its file of the same name, or of about
        the same size."""
        if not self._models and not self._by_path:
            return None  # there is no neighbour
        if is_model(entry):
            known = [self._models.get(entry.path), *self._models.values()]
        elif _is_near(entry):
            alike = self._by_kind[_kind(entry.path)]
            off = sorted((abs(size - entry.size), digest) for size, digest in alike)
            close = [digest for by, digest in off if by <= entry.size * _CLOSE]
            known = [self._by_path.get(entry.path), *close[:1]]
        else:
            return None
        return next((digest for digest in known if digest in self._places.by_digest), None)

    def prefix_for(self, entry: FileEntry) -> tuple[str, Callable[[], bytes | None]] | None:
        """The base and a reader of its bytes, which gives None where they cannot be read."""
        digest = self.base_of(entry)
        if digest is None or is_model(entry):
            return None if digest is None else (digest, lambda: self._prefix(digest))
        if len(self._wanted | {digest}) > _FILES or self._places.by_digest[digest].size > _AT_MOST:
            return None
        self._wanted.add(digest)
        return digest, lambda: self._small_prefix(digest)

    def _prefix(self, digest: str) -> bytes | None:
        if digest not in self._read:  # most ranks share one, and one is held at a time
            try:
                self._read = {digest: self._fetcher.read(digest)}
            except (ObjectMissingError, PackError) as error:
                logger.warning("a neighbour's model is left aside: %s", error)
                self._read = {digest: None}
        return self._read[digest]

    def _small_prefix(self, digest: str) -> bytes | None:
        """All that are wanted are read with the first of them."""
        wanted, self._wanted = self._wanted, set()

        def keep(found: str, _size: int, chunks: Iterable[memoryview]) -> None:
            self._small[found] = b"".join(chunks)

        try:
            self._fetcher.run([self._fetcher.plan(wanted)], keep)
        except (ObjectMissingError, PackError) as error:
            logger.warning("a neighbour's files are left aside: %s", error)
        return self._small.get(digest)


def is_model(entry: FileEntry) -> bool:
    """A serialized forward: two of them are nearly equal, and of a size to be a prefix."""
    return _WORTH_MODEL <= entry.size <= MAX_FRAME and basename(entry.path) == "model"


def _is_near(entry: FileEntry) -> bool:
    return (
        _WORTH <= entry.size <= _AT_MOST
        and entry.relocate == NOT_RELOCATED
        and basename(entry.path) != "model"
        and not _KERNEL.fullmatch(entry.path)
    )


def _kind(path: str) -> str:
    """Files of one kind are written by the same code: graphs, sources, libraries."""
    for graphs in ("aotautograd", "fxgraph"):
        if f"{graphs}/" in path:
            return graphs
    return basename(path).partition(".")[2]
