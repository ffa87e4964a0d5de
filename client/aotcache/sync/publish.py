"""Publish: put what is new of a tree's parts into object storage, then name it in the index.

Bytes, then manifest, then index row. Killed anywhere, a publish leaves nothing that a reader sees
by half, and the next one goes on where it stopped: its packs are in the journal, a manifest that
it put is committed as it is.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec

from aotcache.core.leaks import leak_in
from aotcache.core.places import Places
from aotcache.core.trust import SIGNED
from aotcache.errors import (
    AotcacheError,
    CondemnedError,
    GenerationTakenError,
    ObjectMissingError,
    SessionExpiredError,
    UsageError,
)
from aotcache.local.journal import Journal, drop_journal, read_journal
from aotcache.local.state import TreeState, target_of
from aotcache.net.tracing import span
from aotcache.probe.trees import FoundTree, ScannedFile, TreeScan
from aotcache.protocol.manifest import FileEntry, Manifest, Statement, encode_whole
from aotcache.protocol.names import TreeKey, manifest_key, new_publish_id, pack_key
from aotcache.protocol.v1.publish import OpenSession, PartState
from aotcache.sync.announce import Written, put_manifest, statement_of, write
from aotcache.sync.describe import describe
from aotcache.sync.identity import Identity
from aotcache.sync.neighbours import Neighbours
from aotcache.sync.plan import PartPlan, check_listed, plan_part
from aotcache.sync.published import ALREADY_STORED, PUBLISHED, Published, PublishedPart
from aotcache.sync.session import PublishSession
from aotcache.sync.site import Site
from aotcache.sync.upload import Uploader

logger = logging.getLogger(__name__)

# What is tried again, how many times in all, and what is said then.
_TRIES: dict[type[AotcacheError], tuple[int, str]] = {
    GenerationTakenError: (8, "others were faster each time: run the publish again for the rest"),
    SessionExpiredError: (3, "the session was over each time: it is short for this upload"),
    CondemnedError: (3, "the service refuses packs that were put just now"),
    ObjectMissingError: (2, "is this node's --storage-url the service's own storage?"),
}


def publish(
    site: Site,
    namespace: str,
    tree: FoundTree,
    scan: TreeScan,
    identity: Identity,
    folders: Sequence[str],
    complete: Sequence[str] = (),
    listed: Set[FileEntry] | None = None,
) -> Published:
    """Publish the parts of a tree that lie in `folders` (`shared`, `rank_0_0`), which are complete.

    complete: all directories that are. Those of them that this node has never published or pulled
    under the tree's platform are published too: a tree that grows its first C++ is from then on for
    one CPU, and a node looks for all of it under one platform. listed: what the files have to be;
    None: whatever they are.

    First good wins: a file that the newest generation names already stays what it is. Raises
    UsageError where parts have to be signed and there is no key, NotSettledError when a file
    changes meanwhile, TrustError when the newest generation is not one this node would accept, and
    every error of storage and service; then nothing is named.
    """
    if site.policy.mode == SIGNED and site.signer is None:
        raise UsageError(
            f"{tree.path} is not published: this node trusts only signed parts and has no key to "
            "sign its own. Make one with `aotcache key generate`, or say AOTCACHE_TRUST=unsigned"
        )
    about = {"layout": tree.layout, "hash": tree.hash, "namespace": namespace}
    with span("aotcache.publish", **about), TreeState(tree.path).locked():
        return _Publish(site, namespace, tree, scan, identity, folders, complete, listed).run()


class _Publish:
    def __init__(
        self,
        site: Site,
        namespace: str,
        tree: FoundTree,
        scan: TreeScan,
        identity: Identity,
        folders: Sequence[str],
        complete: Sequence[str],
        listed: Set[FileEntry] | None,
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
        # The platform too: a tree that grows its first C++ is from then on for one CPU.
        self.target = target_of(site.store.url, namespace, self.key.platform)
        known = self.state.remembered(self.target)
        moved = {name for name in complete if identity.parts[name] not in known}
        files = [file for file in scan.files if file.part_dir in moved.union(folders)]
        self.described, refused = describe(tree, files)
        if listed is not None:
            check_listed(tree, files, self.described, listed)
        self.left_out = dict.fromkeys([*scan.left_out, *refused])
        self.files: dict[str, list[ScannedFile]] = defaultdict(list)
        for file in files:
            if file.path in self.described:
                self.files[identity.parts[file.part_dir]].append(file)
        self.done: dict[str, PublishedPart] = {}
        self.failures: Counter[type[AotcacheError]] = Counter()
        journal = read_journal(self.state, self.target)
        if journal is not None and not self._is_usable(journal):
            logger.info(
                "%s: packs of the interrupted publish are gone, or were not searched for secrets: "
                "starting over",
                self.key,
            )
            journal = None
        self.uploaded = 0
        self.afresh = False
        self._take(journal or self._new_journal(), resumed=journal is not None)

    def _new_journal(self) -> Journal:
        searched = self.site.scanner is not None
        return Journal(target=self.target, publish_id=new_publish_id(), searched=searched)

    def _is_usable(self, journal: Journal) -> bool:
        """Whether the packs of an interrupted publish are all there still, and were searched for
        secrets if these must be. If not, it cannot go on under its id: packs of the same names
        would be put again, and a name that died is dead."""
        if self.site.scanner is not None and not journal.searched:
            return False
        keys = {pack_key(self.key.namespace, put.place.name): put for put in journal.packs}
        try:
            return all(self.site.store.size(key) == put.place.size for key, put in keys.items())
        except ObjectMissingError:
            return False

    def _take(self, journal: Journal, *, resumed: bool) -> None:
        self.journal = journal
        asked = OpenSession(
            publish_id=journal.publish_id,
            layout=self.key.layout,
            hash=self.key.hash,
            namespace=self.key.namespace,
            platform=self.identity.platform,
            parts=tuple(sorted(self.files)),
            recipe=self.identity.recipe,
        )
        self.session = PublishSession(self.site, asked)
        self.uploader = Uploader(
            self.site,
            self.key.namespace,
            self.tree,
            self.described,
            journal,
            self.session.renew,
            resumed=resumed,
        )

    def run(self) -> Published:
        while True:
            try:
                if self._attempt():
                    break
                self._failed(GenerationTakenError("what another publisher put was there first"))
            except tuple(_TRIES) as error:
                self._failed(error)
        drop_journal(self.state)
        return Published(
            tree=self.key,
            path=self.tree.path,
            parts=tuple(self.done[part] for part in sorted(self.done)),
            left_out=tuple(self.left_out),
            raw_bytes=sum(item.size for item in self.described.values()),
            uploaded_bytes=self.uploaded + self.uploader.uploaded,
            seconds=time.monotonic() - self.begin,
        )

    def _failed(self, error: AotcacheError) -> None:
        """Get ready for another try, or raise the error when there were enough of its kind."""
        kind = type(error)
        self.failures[kind] += 1
        tries, why = _TRIES[kind]
        if self.failures[kind] >= tries:
            raise kind(f"{self.key} was tried {tries} times: {why} ({error})") from error
        logger.info("%s: %s; trying again", self.key, error)
        if isinstance(error, (SessionExpiredError, CondemnedError)):
            # The packs of this publish id are gone, or may be at any time: start over. So may be
            # those that a remembered manifest refers to, which has been replaced since.
            self.afresh = True
            self.uploaded += self.uploader.uploaded
            self._take(self._new_journal(), resumed=False)

    def _attempt(self) -> bool:
        """One try at the generation after the newest. False: look again, somebody else's (or our
        own interrupted) manifest was found and committed first, or cleared out of the way."""
        if not self.files:
            return True
        session = self.session.open()
        newest = {
            state.part: manifest_key(self.key, state.part, state.generation)
            for state in session.parts
            if state.generation
        }
        here = {} if self.afresh else self.state.remembered(self.target)
        known = {newest[part]: data for part, data in here.items() if part in newest}
        manifests = self.site.manifests([*newest.values()], known)
        previous = dict(zip(newest, manifests, strict=True))
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
        self.uploader.known(places)
        neighbours = Neighbours(self.site, self.key.namespace, session.neighbours, places)
        statements = [self._statement(plan) for plan in plans]
        with ThreadPoolExecutor(8, thread_name_prefix="aotcache-manifest") as pool:
            # Where the bytes lie is in another section: this one is written meanwhile.
            written = [
                pool.submit(write, said, plan.previous, session.formats)
                for said, plan in zip(statements, plans, strict=True)
            ]
            self.uploader.run({plan.state.part: plan.files for plan in plans}, places, neighbours)
            self.session.renew()

            def put(plan: PartPlan, statement: Future[Written]) -> None:
                put_manifest(self.site, self.session, plan, statement.result(), places)

            list(pool.map(put, plans, written))
        # Also what was taken: its publisher may have died before its commit.
        refused = self.session.commit([plan.manifest_key for plan in plans])
        self._note_committed([plan for plan in plans if plan.manifest_key not in refused])
        for key, error in refused.items():
            self.session.remove(key, error)
        for plan in plans:
            if plan.manifest_key in refused and self._is_own(plan):
                raise refused[plan.manifest_key]
        return not refused and all(plan.taken is None for plan in plans)

    def _statement(self, plan: PartPlan) -> Statement:
        """What the engine's record says may hold a secret too, and a path. Raises LeakError, before
        any pack is put."""
        said = statement_of(self.identity, self.key, plan, self.journal.publish_id)
        if self.site.scanner is not None:
            told = msgspec.to_builtins(msgspec.structs.replace(said, files=()))
            paths = [entry.path for entry in said.files]
            for what, texts in (("record", [*_texts(told)]), ("paths", paths)):
                found = self.site.scanner.find("\n".join(texts).encode())
                if found is not None:
                    raise leak_in(f"the {what} of {self.tree.path}", 0, found)
        return said

    def _is_own(self, plan: PartPlan) -> bool:
        return plan.taken is None or plan.taken.publish_id == self.journal.publish_id

    def _note_committed(self, plans: Sequence[PartPlan]) -> None:
        for plan in plans:
            if plan.taken is None:
                self.state.remember(self.target, plan.state.part, plan.data)
                files = plan.files
            elif self._is_own(plan):
                files = plan.taken.files
            else:
                continue
            new = len(files) - plan.old
            self._note(plan.state.part, plan.state.next_generation, files, new, PUBLISHED)

    def _note(
        self, part: str, generation: int, entries: Sequence[FileEntry], new: int, status: str
    ) -> None:
        self.done[part] = PublishedPart(
            part=part, generation=generation, files=len(entries), new_files=new, status=status
        )

    def _plan(self, state: PartState, previous: Manifest | None) -> PartPlan | None:
        """None: the part is stored already, as it is here."""
        plan = plan_part(self.key, state, previous, self.files[state.part], self.described)
        self.left_out |= dict.fromkeys(plan.left_out)
        if plan.new or previous is None:
            return plan
        if state.part not in self.done:
            self._note(state.part, state.generation, plan.files, 0, ALREADY_STORED)
        # So that a watcher need not ask again.
        self.state.remember(self.target, state.part, encode_whole(previous))
        return None


def _texts(value: Any) -> Iterator[str]:
    """All texts in what JSON can hold."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)
