"""Publishing: a session pins what may be reused, one transaction commits what was put."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from threading import Semaphore

from sqlalchemy.orm import Session as Transaction

from aotcache.errors import (
    GenerationTakenError,
    ManifestError,
    ObjectMissingError,
    TrustError,
    UnavailableError,
    UsageError,
)
from aotcache.protocol.content import content_or_all
from aotcache.protocol.manifest import Manifest
from aotcache.protocol.names import (
    MAX_PARTS,
    PartName,
    TreeKey,
    check_publish_id,
    manifest_key,
    pack_key,
    parse_manifest_key,
)
from aotcache.protocol.sections import FORMATS
from aotcache.protocol.v1.publish import Commit, Committed, OpenSession, Session
from aotcache.storage.base import ObjectStore

from ..index import history, leases, publishing, write
from ..index.database import Database
from ..index.models import TreeRow
from ..metrics import PUBLISH_SECONDS, PUBLISHED_BYTES, PUBLISHED_PARTS
from .reading import check_manifest, read_deletions, stored_size, weight

log = logging.getLogger(__name__)

_MOST = 1_000_000  # files, and what weighs as much, of all manifests of one commit
# What weighs more is refused while two such commits are under way: waiting, it would keep its
# memory, and a thread that others need.
_LARGE = 100_000
_large = Semaphore(2)
_ahead = Semaphore(1)
_READERS = 8  # requests of one commit that wait for storage at the same time


def open_session(
    database: Database,
    store: ObjectStore,
    asked: OpenSession,
    *,
    now: int,
    lifetime: int,
    storage_url: str = "",
) -> Session:
    """Open a session, or resume the one of this publish id: it then lasts `lifetime` from `now`.

    Raises UsageError when the publish id is that of another tree's session.
    """
    key = TreeKey(
        namespace=asked.namespace,
        layout=asked.layout,
        hash=asked.hash,
        platform=asked.platform.id,
    )
    parts = tuple(dict.fromkeys(asked.parts))
    _recall_deletions(database, store, key, parts)
    with database.write() as db:
        publishing.open_session(db, asked.publish_id, key, now, now + lifetime, database.time())
        newest = publishing.newest_parts(db, key)
        neighbours = [row for part, row in newest.items() if part not in parts]
        neighbours += publishing.neighbour_parts(db, key, asked.recipe)
        publishing.pin_packs(db, asked.publish_id, [*newest.values(), *neighbours])
        return Session(
            publish_id=asked.publish_id,
            expires=now + lifetime,
            parts=publishing.part_states(db, key, parts, newest),
            neighbours=tuple(row.manifest for row in neighbours),
            storage_url=storage_url,
            formats=FORMATS,
        )


def commit(
    database: Database, store: ObjectStore, publish_id: str, asked: Commit, *, now: int
) -> Committed:
    """Add the manifests to the index, all or none, and end the session.

    Idempotent: what is committed already is confirmed, also after the session is over. Raises
    SessionExpiredError; GenerationTakenError when a generation is not the next one of its part;
    CondemnedError when a pack is missing or going; ManifestError; ObjectMissingError, which also
    names those that were deleted meanwhile: the others are committed then; UnavailableError while
    others commit as much.
    """
    check_publish_id(publish_id)
    names = {key: parse_manifest_key(key) for key in asked.manifests}
    namespaces = {name.tree.namespace for name in names.values()}
    if len(namespaces) > 1:
        raise UsageError(f"a commit is of one namespace, not of {', '.join(sorted(namespaces))}")
    done = Committed(manifests=asked.manifests)
    with database.read() as db:
        new = [key for key, name in names.items() if not publishing.is_committed(db, name)]
        if not new:
            return done
        namespace = namespaces.pop()
        publishing.require_session(db, publish_id, namespace, now)
    # Storage is read outside the transaction: nobody else can write while that is open.
    with _held(store, new) as manifests:
        manifests.sort(key=lambda manifest: manifest.statement.generation)
        size, seconds = _commit(database, store, publish_id, namespace, manifests, now)
    PUBLISHED_PARTS.inc(len(new))
    PUBLISHED_BYTES.inc(size)
    if seconds is not None:
        PUBLISH_SECONDS.observe(seconds)
    log.info("committed %s", ", ".join(new))
    return done


def _commit(
    database: Database,
    store: ObjectStore,
    publish_id: str,
    namespace: str,
    manifests: list[Manifest],
    now: int,
) -> tuple[int, float | None]:
    """The bytes of packs that came with them, and the seconds since the session was opened."""
    with database.read() as db:
        _refuse_revoked(manifests, publishing.revoked_keys(db, namespace))
    stored = _stored_packs(store, namespace, manifests)
    for tree in {manifest.statement.tree for manifest in manifests}:
        parts = {one.statement.part for one in manifests if one.statement.tree == tree}
        _recall_deletions(database, store, tree, parts)
    with database.write() as db:
        session = publishing.require_session(db, publish_id, namespace, now)
        seconds = database.time() - session.opened if session.opened else None
        brought = publishing.unknown_packs(db, namespace, stored)
        changed: dict[int, TreeRow] = {}
        for manifest in manifests:
            tree, part = manifest.statement.tree, manifest.statement.part
            name = PartName(tree, part, manifest.statement.generation)
            if publishing.is_committed(db, name):
                continue
            newest = publishing.newest_parts(db, tree)
            (state,) = publishing.part_states(db, tree, [part], newest)
            if manifest.statement.generation != state.next_generation:
                raise GenerationTakenError(
                    f"{tree} {part}: generation {manifest.statement.generation} cannot be "
                    f"committed, the next is {state.next_generation}: open the session again "
                    "and rebase"
                )
            if part not in newest and len(newest) >= MAX_PARTS:
                raise UsageError(f"{tree} has {MAX_PARTS} parts, and no tree has more")
            publishing.require_base(db, name, manifest)
            _refuse_quarantined(db, manifest)
            row = write.add_part(db, manifest, stored)
            changed[row.id] = row
            leases.end_published(db, tree, {*newest, part})
        for row in changed.values():
            write.refresh(db, row)
        db.delete(session)
        size = sum(stored[name] for name in brought)
        history.add(db, {history.place(namespace, history.PUBLISHED, now): size})
    _withdraw_lost(database, store, manifests, brought)
    return size, seconds


def _withdraw_lost(
    database: Database, store: ObjectStore, manifests: Iterable[Manifest], brought: Iterable[str]
) -> None:
    """What the index did not know could be deleted until the commit: by whoever may publish, and
    packs by a collection, where the session had been over for as long as the time of grace.
    brought: such packs. Raises ObjectMissingError."""
    packs = {pack_key(one.statement.namespace, name) for one in manifests for name in brought}
    places = {
        _key(one): {pack_key(one.statement.namespace, pack.name) for pack in one.locations.packs}
        for one in manifests
    }
    wanted = [*places, *packs]
    lost = set(wanted).difference(_stored(store, wanted))
    gone = [key for key, used in places.items() if key in lost or used & lost]
    if gone:
        what = ", ".join(sorted(lost))
        log.warning("%s: deleted before the commit; withdrawn: %s", what, ", ".join(gone))
        with database.write() as db:
            for key in gone:
                write.withdraw(db, key)
        raise ObjectMissingError(f"{what} was deleted before its commit: put it again")


@contextmanager
def _held(store: ObjectStore, keys: Iterable[str]) -> Iterator[list[Manifest]]:
    """In memory as long as the block runs. Raises UsageError where that is too much for one commit,
    UnavailableError where it is for all that are under way."""
    found: list[Manifest] = []
    size = 0
    with ExitStack() as large:
        for key, data in _read(store, keys):
            found.append(check_manifest(store, key, data))
            before, size = size, size + weight(found[-1])
            if before and size > _MOST:
                raise UsageError(
                    f"a commit lists at most {_MOST} files, places and frames: commit part by part"
                )
            if before <= _LARGE < size:
                if not _large.acquire(blocking=False):
                    raise UnavailableError("other large commits are under way: try again")
                large.callback(_large.release)
        yield found


def _read(store: ObjectStore, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Objects, a few at a time: each takes a moment to come. But it takes memory too, perhaps much,
    so of the commits that are under way one does."""
    ahead = _ahead.acquire(blocking=False)
    try:
        left = iter(keys)
        with ThreadPoolExecutor(_READERS) as pool:
            while some := list(islice(left, _READERS if ahead else 1)):
                yield from zip(some, pool.map(store.get, some), strict=True)
    finally:
        if ahead:
            _ahead.release()


def _refuse_revoked(manifests: Iterable[Manifest], revoked: set[str]) -> None:
    """A part that is withheld from the start would only keep others from publishing it."""
    for manifest in manifests:
        # The service verifies no signature: any other that is named beside may be made up.
        signers = revoked.intersection(signature.key for signature in manifest.signatures)
        if signers:
            raise TrustError(
                f"{manifest.statement.tree} {manifest.statement.part} is signed by "
                f"{', '.join(signers)}, which is revoked here: nothing was committed. Publish with "
                "another key"
            )


def _refuse_quarantined(db: Transaction, manifest: Manifest) -> None:
    said = manifest.statement
    found = publishing.quarantine_of(db, said.tree, said.part)
    if found is not None and found.content and content_or_all(said.files) == found.content:
        raise ManifestError(
            f"{said.tree} {said.part} holds what nodes failed with: nothing was committed. Compile "
            "it anew on an empty disk, or have it released (`aotcache quarantine release`)"
        )


def _key(manifest: Manifest) -> str:
    statement = manifest.statement
    return manifest_key(statement.tree, statement.part, statement.generation)


def _recall_deletions(
    database: Database, store: ObjectStore, tree: TreeKey, parts: Iterable[str]
) -> None:
    """Tell a database that was lost which generations are deleted: a part published below those
    would go with the next rebuild. One listing, only for parts that the index does not know."""
    with database.read() as db:
        unknown = publishing.unknown_parts(db, tree, parts)
    if unknown and (deleted := read_deletions(store, tree)):
        with database.write() as db:
            write.hide_generations(db, tree, deleted)


def _stored_packs(store: ObjectStore, namespace: str, manifests: list[Manifest]) -> dict[str, int]:
    """Sizes in storage of all packs that the manifests refer to; add_part says which part lacks
    one. The index is not asked: what it knows may have been lost from storage."""
    names = sorted({place.name for manifest in manifests for place in manifest.locations.packs})
    stored = _stored(store, [pack_key(namespace, name) for name in names])
    return {key.rpartition("/")[2]: size for key, size in stored.items()}


def _stored(store: ObjectStore, keys: Sequence[str]) -> dict[str, int]:
    """Sizes of those that are there."""
    with ThreadPoolExecutor(_READERS) as pool:
        sizes = pool.map(partial(stored_size, store), keys)
        return {key: size for key, size in zip(keys, sizes, strict=True) if size is not None}
