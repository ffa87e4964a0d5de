"""Upload: pack the blobs that nobody has stored yet, and put the packs."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from aotcache.core.framing import Source
from aotcache.core.pack import BuiltPack, build_packs
from aotcache.core.places import Place, Places
from aotcache.errors import ManifestError, ObjectExistsError, ObjectMissingError, StorageError
from aotcache.local.journal import Described, Journal, PutPack, write_journal
from aotcache.local.state import TreeState
from aotcache.probe.trees import FoundTree
from aotcache.protocol.manifest import FileEntry
from aotcache.protocol.names import pack_key
from aotcache.sync.describe import read_pieces
from aotcache.sync.neighbours import Neighbours, is_model
from aotcache.sync.referred import Referred
from aotcache.sync.site import Site

logger = logging.getLogger(__name__)


class Uploader:
    """Puts the packs of one publish and notes them in its journal. `uploaded`: bytes so far.

    described: what this disk holds, by path. between: called after each pack.
    """

    def __init__(
        self,
        site: Site,
        namespace: str,
        tree: FoundTree,
        described: Mapping[str, Described],
        journal: Journal,
        between: Callable[[], None],
        *,
        resumed: bool,
    ) -> None:
        self._site = site
        self._namespace = namespace
        self._tree = tree
        self._described = described
        self._between = between
        self._journal = journal
        self._referred = Referred(site, namespace, [put.place.name for put in journal.packs])
        self._resumed = resumed
        self.uploaded = 0

    def known(self, places: Places) -> None:
        """Add the places of what an interrupted publish has put already."""
        for put in self._journal.packs:
            _add(places, put)

    def run(
        self, parts: Mapping[str, Iterable[FileEntry]], places: Places, neighbours: Neighbours
    ) -> None:
        """Store every blob of these parts' files that has no place yet, or only one that is lost,
        and add its place. Raises StorageError when what is lost is not on this disk."""
        entries = [(part, entry) for part, files in parts.items() for entry in files]
        bases = {
            neighbours.base_of(entry)
            for _, entry in entries
            if is_model(entry) or entry.digest not in places.by_digest
        }
        digests = {entry.digest for _, entry in entries}
        self._referred.drop_lost(places, digests.union(base for base in bases if base))
        where = {entry.digest: entry for _, entry in reversed(entries) if self._is_here(entry)}
        needed: dict[str, set[str]] = defaultdict(set)
        for part, entry in entries:
            if entry.size and entry.digest not in places.by_digest:
                if entry.digest not in where:
                    raise StorageError(
                        f"the pack of {entry.path}, {part} of {self._tree.hash} is lost, and this "
                        "node has no such file: nothing was published. Delete the tree with "
                        "`aotcache rm` and publish it again"
                    )
                needed[entry.digest].add(part)
        if not needed:
            return
        sources = self._sources(needed, where, places, neighbours)
        total, done = sum(source.size for source in sources), 0
        self._site.progress.step(f"packing {len(sources)} new blobs, {total} bytes")
        # Packing is repeatable: with the publish id kept, a pack that was put just before a kill is
        # found under the same name.
        write_journal(TreeState(self._tree.path), self._journal)
        for pack in build_packs(sources, self._journal.publish_id, self._site.scanner):
            self._put(pack)
            put = PutPack(pack.place, pack.blobs)
            self._journal.packs.append(put)
            write_journal(TreeState(self._tree.path), self._journal)
            self._referred.know(pack.place.name)
            _add(places, put)
            done += sum(size for _, size in pack.blobs.values())
            self._site.progress.moved(done, total)
            self._between()

    def _is_here(self, entry: FileEntry) -> bool:
        here = self._described.get(entry.path)
        return here is not None and here.digest == entry.digest

    def _put(self, pack: BuiltPack) -> None:
        key = pack_key(self._namespace, pack.place.name)
        try:
            if self._resumed and self._site.store.size(key) == len(pack.data):
                logger.info("pack %s was put before the interruption", pack.place.name)
                return
        except ObjectMissingError:
            logger.debug("pack %s is put now", pack.place.name)
        try:
            self._site.store.put(key, pack.data)
        except ObjectExistsError:
            # A put that was repeated after its answer got lost: the name holds the digest.
            logger.debug("pack %s was put by the first try", pack.place.name)
        self.uploaded += len(pack.data)

    def _sources(
        self,
        needed: Mapping[str, set[str]],
        where: Mapping[str, FileEntry],
        places: Places,
        neighbours: Neighbours,
    ) -> list[Source]:
        """Blobs in the order in which they are packed: by the parts that need them, then by kind,
        so that what compresses well together lies together."""

        def order(digest: str) -> tuple[tuple[str, ...], str, str]:
            path = where[digest].path
            return tuple(sorted(needed[digest])), path.rpartition(".")[2], path

        # The first rank's model: those of the other ranks differ little from it.
        models = [entry for entry in where.values() if is_model(entry)]
        base = min(models, key=lambda entry: entry.path, default=None)
        sources = []
        for digest in sorted(needed, key=order):
            entry, group = where[digest], tuple(sorted(needed[digest]))
            prefix = self._prefix(entry, base, places, neighbours)
            sources.append(
                Source(
                    digest,
                    entry.size,
                    group,
                    f"{self._tree.path}/{entry.path}",
                    self._reader(entry),
                    prefix,
                )
            )
        # What has frames of its own comes after what shares them, so that it cuts none short.
        return sorted(sources, key=lambda source: (source.group, source.prefix is not None))

    def _prefix(
        self,
        entry: FileEntry,
        base: FileEntry | None,
        places: Places,
        neighbours: Neighbours,
    ) -> tuple[str, Callable[[], bytes | None]] | None:
        stored = neighbours.prefix_for(entry)
        if stored is not None or base is None or not is_model(entry):
            return stored
        place = places.by_digest.get(base.digest)
        if entry.digest == base.digest or (place is not None and places.prefixes_of(place)):
            return None  # a prefix must not need one itself
        read = self._reader(base)
        return base.digest, lambda: b"".join(read())

    def _reader(self, entry: FileEntry) -> Callable[[], Iterator[bytes]]:
        return lambda: read_pieces(self._tree, entry.path, entry.size)


def _add(places: Places, put: PutPack) -> None:
    raw = sum(frame.raw for frame in put.place.frames)
    for digest, (offset, size) in put.blobs.items():
        if offset + size > raw:
            raise ManifestError(f"the journal places blob {digest[:12]} outside its pack")
        places.add(digest, Place(put.place, offset, size))
