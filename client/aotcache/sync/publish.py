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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from aotcache.core.places import Places
from aotcache.errors import (
    GenerationTakenError,
    ObjectExistsError,
    ObjectMissingError,
    RemoteError,
    SessionExpiredError,
)
from aotcache.local.journal import (
    Described,
    Journal,
    drop_journal,
    read_journal,
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
from aotcache.protocol.v1.publish import Commit, OpenSession, PartState
from aotcache.sync.describe import describe
from aotcache.sync.identity import Identity
from aotcache.sync.neighbours import Neighbours
from aotcache.sync.site import Site
from aotcache.sync.upload import Uploader

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
        self.done: dict[str, PublishedPart] = {}
        # The platform too: a tree that grows its first C++ is from then on for one CPU.
        target = f"{site.store.url} {namespace} {self.key.platform}"
        journal = read_journal(self.state, target)
        if journal is not None and not self._is_stored(journal):
            logger.info("%s: packs of the interrupted publish are gone: starting over", self.key)
            journal = None
        new = Journal(target=target, publish_id=new_publish_id())
        self._take(journal or new, resumed=journal is not None)
        self.uploaded = 0

    def _is_stored(self, journal: Journal) -> bool:
        """Whether the packs of an interrupted publish are all there still. If not, it cannot go on
        under its id: packs of the same names would be put again, and a name that died is dead."""
        keys = {pack_key(self.key.namespace, put.place.name): put for put in journal.packs}
        try:
            return all(self.site.store.size(key) == put.place.size for key, put in keys.items())
        except ObjectMissingError:
            return False

    def _take(self, journal: Journal, *, resumed: bool) -> None:
        self.journal = journal
        self.uploader = Uploader(self.site, self.key.namespace, self.tree, journal, resumed=resumed)

    def run(self) -> Published:
        for _ in range(_ATTEMPTS):
            try:
                if self._attempt():
                    break
            except SessionExpiredError:
                # The packs of the old session may be collected at any time: start over.
                self.uploaded += self.uploader.uploaded
                target = self.journal.target
                self._take(Journal(target=target, publish_id=new_publish_id()), resumed=False)
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
            uploaded_bytes=self.uploaded + self.uploader.uploaded,
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
        newest = {
            state.part: manifest_key(self.key, state.part, state.generation)
            for state in session.parts
            if state.generation
        }
        previous = dict(zip(newest, self.site.manifests([*newest.values()]), strict=True))
        plans = [
            plan
            for state in session.parts
            if (plan := self._plan(state, previous.get(state.part))) is not None
        ]
        if not plans:
            return True
        places = Places()
        for manifest in previous.values():
            places.add_manifest(manifest)
        neighbours = Neighbours(self.site, self.key.namespace, session.neighbours, places)
        self.uploader.known(places)
        self.uploader.run({plan.state.part: plan.files for plan in plans}, places, neighbours)
        try:
            with ThreadPoolExecutor(8, thread_name_prefix="aotcache-manifest") as pool:
                list(pool.map(lambda plan: self._put_manifest(plan, places), plans))
            # Also what was taken: its publisher may have died before its commit.
            keys = tuple(plan.manifest_key for plan in plans)
            self.site.index.commit(session.publish_id, Commit(manifests=keys))
        except ObjectMissingError as error:
            # Deleted at this moment: the next look says which generation comes next.
            logger.info("%s: %s; looking again", self.key, error)
            return False
        for plan in plans:
            if plan.taken is None:
                write_whole(self.state.manifest(plan.state.part), plan.data)
                files = plan.files
            elif plan.taken.publish_id == self.journal.publish_id:
                files = plan.taken.files
            else:
                continue
            new = len(files) - plan.old
            self._note(plan.state.part, plan.state.next_generation, files, new, PUBLISHED)
        return all(plan.taken is None for plan in plans)

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
        if previous and not new:
            if state.part not in self.done:
                self._note(state.part, state.generation, old, 0, ALREADY_STORED)
            # So that a watcher need not ask again.
            data = encode_manifest(
                previous.statement_bytes, previous.locations, previous.signatures
            )
            write_whole(self.state.manifest(state.part), data)
            return None
        return _PartPlan(
            state=state,
            manifest_key=manifest_key(self.key, state.part, state.next_generation),
            files=tuple(sorted([*old, *new], key=lambda entry: entry.path)),
            old=len(old),
        )

    def _put_manifest(self, plan: _PartPlan, places: Places) -> None:
        """Put a plan's manifest; where there is one of its name, accept that one instead."""
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
            # Another publisher's, or our own from before an interruption.
            plan.taken = self.site.manifest(plan.manifest_key).statement

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
            files=plan.files,
        )


@dataclass(slots=True, kw_only=True)
class _PartPlan:
    """files: all of the next generation; old: how many of them the newest has. data: the manifest
    that was put; taken: what the one says that was there already."""

    state: PartState
    manifest_key: str
    files: tuple[FileEntry, ...]
    old: int
    data: bytes = b""
    taken: Statement | None = None


def _entry(file: ScannedFile, described: Described) -> FileEntry:
    mode = EXECUTABLE if file.executable else PLAIN
    return FileEntry(file.path, described.size, mode, described.digest, described.relocate)
