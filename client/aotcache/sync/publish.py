"""Publish: put what is new of a tree's parts into object storage, then name it in the index.

Bytes, then manifest, then index row. Killed anywhere, a publish leaves nothing that a reader sees
by half, and the next one goes on where it stopped: its packs are in the journal, a manifest that
it put is committed as it is.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aotcache.core.pack import Source, build_packs
from aotcache.core.places import Place, Places
from aotcache.errors import (
    GenerationTakenError,
    ManifestError,
    ObjectExistsError,
    ObjectMissingError,
    RemoteError,
    SessionExpiredError,
)
from aotcache.local.journal import (
    Described,
    Journal,
    PutPack,
    drop_journal,
    read_journal,
    write_journal,
)
from aotcache.local.state import TreeState, write_whole
from aotcache.probe.trees import FoundTree, LeftOut, ScannedFile, TreeScan
from aotcache.protocol.manifest import (
    EXECUTABLE,
    PLAIN,
    FileEntry,
    Manifest,
    Statement,
    encode_manifest,
    encode_statement,
)
from aotcache.protocol.names import TreeKey, manifest_key, new_publish_id, pack_key
from aotcache.protocol.v1.publish import Commit, OpenSession, PartState, Session
from aotcache.sync.describe import describe, read_free
from aotcache.sync.identity import Identity
from aotcache.sync.neighbours import Neighbours
from aotcache.sync.site import Site

logger = logging.getLogger(__name__)

_ATTEMPTS = 8
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


def publish(
    site: Site,
    namespace: str,
    tree: FoundTree,
    scan: TreeScan,
    identity: Identity,
    folders: Sequence[str],
) -> Published:
    """Publish the parts of a tree that lie in `folders` (`shared`, `rank_0_0`), which are complete.

    First good wins: a file that the newest generation names already stays what it is. Raises
    NotSettledError when a file changes meanwhile, TrustError when the newest generation is not one
    this node would accept, and every error of storage and service; then nothing is named.
    """
    with TreeState(tree.path).locked():
        return _Publish(site, namespace, tree, scan, identity, folders).run()


class _Publish:
    def __init__(
        self,
        site: Site,
        namespace: str,
        tree: FoundTree,
        scan: TreeScan,
        identity: Identity,
        folders: Sequence[str],
    ) -> None:
        self.begin = time.monotonic()
        self.site = site
        self.tree = tree
        self.identity = identity
        self.key = TreeKey(
            namespace=namespace,
            layout=tree.layout,
            hash=tree.hash,
            platform=identity.platform.id,
        )
        self.state = TreeState(tree.path)
        files = [file for file in scan.files if file.part_dir in folders]
        self.described, refused = describe(tree, files)
        self.left_out = (*scan.left_out, *refused)
        self.files: dict[str, list[ScannedFile]] = defaultdict(list)
        for file in files:
            if file.path in self.described:
                self.files[identity.parts[file.part_dir]].append(file)
        self.uploaded = 0
        self.done: dict[str, PublishedPart] = {}
        target = f"{site.store.url} {namespace}"
        self.journal = read_journal(self.state, target) or Journal(
            target=target, publish_id=new_publish_id()
        )

    def run(self) -> Published:
        for _ in range(_ATTEMPTS):
            try:
                if self._attempt():
                    break
            except SessionExpiredError:
                # The packs of the old session may be collected at any time: start over.
                self.journal = Journal(target=self.journal.target, publish_id=new_publish_id())
            except GenerationTakenError as error:
                logger.info("%s: %s; trying the next generation", self.key, error)
        else:
            raise RemoteError(
                f"{self.key}: {_ATTEMPTS} times another publisher was faster; what it published is "
                "stored. Run the publish again for what is left"
            )
        drop_journal(self.state)
        return Published(
            tree=self.key,
            path=self.tree.path,
            parts=tuple(self.done[part] for part in sorted(self.done)),
            left_out=self.left_out,
            raw_bytes=sum(item.size for item in self.described.values()),
            uploaded_bytes=self.uploaded,
            seconds=time.monotonic() - self.begin,
        )

    def _attempt(self) -> bool:
        """One try at the generation after the newest. False: look again, somebody else's (or our
        own interrupted) manifest was found and committed first."""
        if not self.files:
            return True
        session = self.site.index.open_session(
            OpenSession(
                publish_id=self.journal.publish_id,
                layout=self.key.layout,
                hash=self.key.hash,
                namespace=self.key.namespace,
                platform=self.identity.platform,
                parts=tuple(sorted(self.files)),
                recipe=self.identity.recipe,
            )
        )
        previous = {
            state.part: self.site.manifest(state.manifest)
            for state in session.parts
            if state.manifest
        }
        plans = [
            plan
            for state in session.parts
            if (plan := self._plan(state, previous.get(state.part))) is not None
        ]
        if not plans:
            return True
        places = self._places(session, previous)
        self._upload(plans, places)
        if not self._put_manifests(plans, places):
            return False
        keys = tuple(plan.manifest_key for plan in plans)
        self.site.index.commit(session.publish_id, Commit(manifests=keys))
        for plan in plans:
            write_whole(self.state.manifest(plan.state.part), plan.data)
            self._note(
                plan.state.part, plan.state.next_generation, plan.entries, plan.new, PUBLISHED
            )
        return True

    def _note(
        self, part: str, generation: int, entries: Sequence[FileEntry], new: int, status: str
    ) -> None:
        self.done[part] = PublishedPart(
            part=part, generation=generation, files=len(entries), new_files=new, status=status
        )

    def _plan(self, state: PartState, previous: Manifest | None) -> _PartPlan | None:
        """The next generation of a part: all that the newest has, and the paths it lacks."""
        old = previous.statement.files if previous else ()
        stored = {entry.path for entry in old}
        new = [
            _entry(file, self.described[file.path])
            for file in self.files[state.part]
            if file.path not in stored
        ]
        if not new:
            if state.part not in self.done:
                self._note(state.part, state.generation, old, 0, ALREADY_STORED)
            return None
        entries = sorted([*old, *new], key=lambda entry: entry.path)
        key = manifest_key(self.key, state.part, state.next_generation)
        return _PartPlan(state=state, manifest_key=key, entries=tuple(entries), new=len(new))

    def _places(self, session: Session, previous: Mapping[str, Manifest]) -> Places:
        places = Places()
        for manifest in previous.values():
            places.add_manifest(manifest)
        self.neighbours = Neighbours(self.site, self.key.namespace, session.neighbours, places)
        for put in self.journal.packs:
            _add(places, put)
        return places

    def _upload(self, plans: Sequence[_PartPlan], places: Places) -> None:
        needed: dict[str, set[str]] = defaultdict(set)
        where: dict[str, FileEntry] = {}
        for plan in plans:
            for entry in plan.entries:
                if entry.size and entry.digest not in places.by_digest:
                    needed[entry.digest].add(plan.state.part)
                    where.setdefault(entry.digest, entry)
        sources = self._sources(needed, where)
        total, done = sum(source.size for source in sources), 0
        if sources:
            self.site.progress.step(
                f"packing {len(sources)} new blobs, {total} bytes, of {len(self.described)} files"
            )
        for pack in build_packs(sources, self.journal.publish_id):
            try:
                self.site.store.put(pack_key(self.key.namespace, pack.place.name), pack.data)
                self.uploaded += len(pack.data)
            except ObjectExistsError:
                # Put by ourselves before a kill that came before the journal was written.
                logger.debug("pack %s was put before", pack.place.name)
            put = PutPack(pack.place, pack.blobs)
            self.journal.packs.append(put)
            write_journal(self.state, self.journal)
            _add(places, put)
            done += sum(size for _, size in pack.blobs.values())
            self.site.progress.moved(done, total)

    def _sources(
        self, needed: Mapping[str, set[str]], where: Mapping[str, FileEntry]
    ) -> list[Source]:
        """Blobs in the order in which they are packed: by the parts that need them, then by kind,
        so that what compresses well together lies together."""

        def order(digest: str) -> tuple[tuple[str, ...], str, str]:
            path = where[digest].path
            return tuple(sorted(needed[digest])), path.rpartition(".")[2], path

        sources = []
        base: str | None = None  # the first rank's model: the other ranks' differ little from it
        for digest in sorted(needed, key=order):
            entry = where[digest]
            prefix = None
            if self.neighbours.is_model(entry):
                prefix = self.neighbours.prefix_for(entry)
                if prefix is None and base is not None:
                    first = where[base].path
                    prefix = base, self._reader(first)
                elif prefix is None:
                    base = digest
            sources.append(
                Source(
                    digest,
                    entry.size,
                    tuple(sorted(needed[digest])),
                    f"{self.tree.path}/{entry.path}",
                    self._reader(entry.path),
                    prefix,
                )
            )
        return sources

    def _reader(self, path: str) -> Callable[[], bytes]:
        return lambda: read_free(self.tree, path)[1]

    def _put_manifests(self, plans: Sequence[_PartPlan], places: Places) -> bool:
        """Put each plan's manifest. False: one of that name is there and was committed instead."""
        for plan in plans:
            statement = self._statement(plan)
            statement_bytes = encode_statement(statement)
            signer = self.site.signer
            signatures = (signer.sign(statement_bytes),) if signer else ()
            sizes = {entry.digest: entry.size for entry in statement.files}
            locations = places.locations(statement.digests(), sizes)
            plan.data = encode_manifest(statement_bytes, locations, signatures)
            try:
                self.site.store.put(plan.manifest_key, plan.data)
            except ObjectExistsError:
                self._adopt(plan.manifest_key)
                return False
        return True

    def _adopt(self, key: str) -> None:
        """Commit a manifest that is in storage and perhaps not in the index: its publisher may have
        died in between, and may have been ourselves."""
        try:
            found = self.site.manifest(key)
            self.site.index.commit(self.journal.publish_id, Commit(manifests=(key,)))
        except ObjectMissingError:
            return  # deleted since; the next look says which generation comes next
        statement = found.statement
        if statement.publish_id == self.journal.publish_id:
            self._note(
                statement.part,
                statement.generation,
                statement.files,
                len(statement.files),
                PUBLISHED,
            )

    def _statement(self, plan: _PartPlan) -> Statement:
        identity = self.identity
        return Statement(
            namespace=self.key.namespace,
            layout=self.key.layout,
            hash=self.key.hash,
            platform=identity.platform,
            part=plan.state.part,
            generation=plan.state.next_generation,
            publish_id=self.journal.publish_id,
            created=int(time.time()),
            publisher=socket.gethostname()[:255],
            recipe=identity.recipe,
            expected_parts=identity.expected_parts,
            compile_seconds=identity.compile_seconds,
            hash_factors=identity.hash_factors,
            notes=identity.notes,
            files=plan.entries,
        )


@dataclass(slots=True, kw_only=True)
class _PartPlan:
    state: PartState
    manifest_key: str
    entries: tuple[FileEntry, ...]
    new: int
    data: bytes = b""


def _entry(file: ScannedFile, described: Described) -> FileEntry:
    mode = EXECUTABLE if file.executable else PLAIN
    return FileEntry(file.path, described.size, mode, described.digest, described.relocate)


def _add(places: Places, put: PutPack) -> None:
    for digest, (offset, size) in put.blobs.items():
        if offset + size > sum(frame.raw for frame in put.place.frames):
            raise ManifestError(f"the journal places blob {digest[:12]} outside its pack")
        places.add(digest, Place(put.place, offset, size))
