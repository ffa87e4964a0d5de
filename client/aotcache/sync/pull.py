"""Pull: put a stored tree on this disk, whole units only, nothing that is not verified."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from aotcache.core.places import Places
from aotcache.core.trust import UNSIGNED
from aotcache.errors import LocalError, ManifestError, RemoteError, UsageError
from aotcache.local.existing import compare
from aotcache.local.install import install
from aotcache.local.staging import Staging, discard
from aotcache.local.state import TreeState, make_directories, target_of
from aotcache.protocol.manifest import FileEntry, Manifest, encode_manifest
from aotcache.protocol.names import SHARED, TreeKey, part_directory
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss, StoredPart
from aotcache.sync.fetch import Fetcher
from aotcache.sync.site import Site

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledPart:
    """files: that the part has; installed: of those, how many were not on this disk yet; kept: how
    many were, with other content, and stayed as they were."""

    part: str
    generation: int
    files: int
    installed: int
    kept: int
    signers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What a pull did. Bytes moved are as stored, bytes written as installed; seconds of it all.

    missing: parts that the tree should have and that nobody has published yet.
    unsigned: the policy accepts parts that nobody signed.
    """

    tree: TreeKey
    path: str
    parts: tuple[PulledPart, ...]
    missing: tuple[str, ...]
    moved_bytes: int
    written_bytes: int
    requests: int
    seconds: float
    unsigned: bool

    @property
    def installed(self) -> int:
        return sum(part.installed for part in self.parts)

    @property
    def kept(self) -> int:
        return sum(part.kept for part in self.parts)


def pull(site: Site, lookup: Lookup, tree_path: str, *, lock_timeout: float = -1) -> Pulled | Miss:
    """Look a tree up and install it at `tree_path` (absolute): the parts asked for, or all.

    Several processes of one node may ask at once: one fetches, the others wait and find it there.
    Existing files are never replaced: those with another size, and a `model` with other content,
    are counted as `kept`, and the model is warned of. A Miss says why there is nothing to pull;
    every error is raised (AotcacheError) and leaves the tree as it was, or with whole units more.
    """
    begin = time.monotonic()
    state = TreeState(tree_path)
    with state.locked(lock_timeout, site.progress.step):
        discard(state.staging)
        answer = site.index.lookup(lookup)
        if isinstance(answer, Miss):
            return answer
        parts = _choose_parts(answer, lookup)
        site.progress.step(
            f"found {lookup.layout}/{lookup.hash[:12]}: {', '.join(part.part for part in parts)}"
        )
        manifests = _manifests(site, answer, parts, lookup)
        found = {m.statement.part: compare(m.statement.files, tree_path) for m in manifests}
        for warning in (text for compared in found.values() for text in compared.models):
            logger.warning("%s", warning)
        mover = _Mover(site, answer, manifests, [e for c in found.values() for e in c.missing])
        if mover.entries:
            mover.move(state, tree_path)
        for manifest in manifests:
            data = encode_manifest(
                manifest.statement_bytes, manifest.locations, manifest.signatures
            )
            said = manifest.statement
            target = target_of(site.store.url, said.namespace, said.platform.id)
            state.remember(target, said.part, data)
    return Pulled(
        tree=manifests[0].statement.tree,
        path=tree_path,
        parts=tuple(
            PulledPart(
                part=m.statement.part,
                generation=m.statement.generation,
                files=len(m.statement.files),
                installed=len(found[m.statement.part].missing),
                kept=found[m.statement.part].kept,
                signers=tuple(signature.key for signature in m.signatures),
            )
            for m in manifests
        ),
        missing=answer.missing,
        moved_bytes=mover.moved,
        written_bytes=mover.written,
        requests=mover.requests,
        seconds=time.monotonic() - begin,
        unsigned=site.policy.mode == UNSIGNED,
    )


def _choose_parts(hit: Hit, lookup: Lookup) -> list[StoredPart]:
    left = set(lookup.parts) - {part.part for part in hit.parts}
    if left or not hit.parts:
        raise RemoteError(
            f"the service says that {hit.layout}/{hit.hash[:12]} is stored, and not where "
            f"{', '.join(sorted(left)) or 'any part'} lies: run `aotcache reindex` there"
        )
    chosen = [part for part in hit.parts if not lookup.parts or part.part in lookup.parts]
    by_directory: dict[str, list[str]] = defaultdict(list)
    for part in chosen:
        if part.part != SHARED:
            by_directory[part_directory(part.part)].append(part.part)
    for directory, names in by_directory.items():
        if len(names) > 1:
            raise UsageError(
                f"{hit.layout}/{hit.hash[:12]} holds {directory} compiled for several devices "
                f"({', '.join(names)}), and a disk has room for one: say which with --part"
            )
    return chosen


def _manifests(site: Site, hit: Hit, parts: list[StoredPart], lookup: Lookup) -> list[Manifest]:
    manifests = site.manifests([part.manifest for part in parts])
    for part, manifest in zip(parts, manifests, strict=True):
        said = manifest.statement
        asked = (hit.namespace, lookup.layout, lookup.hash, part.part, part.generation)
        signed = (said.namespace, said.layout, said.hash, said.part, said.generation)
        if asked != signed or said.platform.id not in lookup.platform.acceptable():
            # The index or the storage answers with another tree's manifest: never install it.
            raise ManifestError(
                f"{part.manifest} is the manifest of {'/'.join(map(str, signed))} for platform "
                f"{said.platform.id[:8]}, not what was asked for: nothing was installed; run "
                "`aotcache reindex` on the service"
            )
    return manifests


class _Mover:
    """Fetches, stages and installs the missing files of one pull, and counts."""

    def __init__(
        self, site: Site, hit: Hit, manifests: list[Manifest], entries: list[FileEntry]
    ) -> None:
        self._site = site
        self._namespace = hit.namespace
        self.entries = entries
        self.moved = self.written = self.requests = self._total = 0
        self._lock = threading.Lock()
        self._places = Places()
        for manifest in manifests:
            self._places.add_manifest(manifest)
        self._to: dict[str, list[FileEntry]] = defaultdict(list)
        for entry in entries:
            self._to[entry.digest].append(entry)

    def move(self, state: TreeState, tree_path: str) -> None:
        make_directories(os.path.dirname(tree_path))
        self.written = sum(entry.size for entry in self.entries)
        free = shutil.disk_usage(os.path.dirname(tree_path)).free
        if free < self.written:
            raise LocalError(
                f"{tree_path} needs {self.written} bytes and its disk has {free}: nothing was "
                "written; free some space"
            )
        staging = Staging(state.staging, tree_path)
        try:
            self._fetch(staging)
            self._site.progress.step(f"installing {len(self.entries)} files into {tree_path}")
            install(staging.path, tree_path)
        finally:
            staging.clear()

    def _fetch(self, staging: Staging) -> None:
        fetcher = Fetcher(self._site.store, self._namespace, self._places, self._count)
        empty = [digest for digest in self._to if digest not in self._places.by_digest]
        jobs = fetcher.plan(digest for digest in self._to if digest in self._places.by_digest)
        self._total = sum(job.stored for job in jobs)
        self._site.progress.step(
            f"fetching {self._total} bytes of {len({job.pack for job in jobs})} packs"
        )

        def consume(digest: str, size: int, chunks: Iterator[bytes]) -> None:
            staging.write(digest, size, chunks, self._to[digest])

        for digest in empty:
            consume(digest, 0, iter(()))
        fetcher.run(jobs, consume)

    def _count(self, stored: int) -> None:
        with self._lock:
            self.moved += stored
            self.requests += 1
            self._site.progress.moved(self.moved, self._total)
