"""Publishing: a session pins what may be reused, one transaction commits what was put."""

from __future__ import annotations

from aotcache.errors import GenerationTakenError, ObjectMissingError, UsageError
from aotcache.protocol.manifest import Manifest
from aotcache.protocol.names import (
    TreeKey,
    check_publish_id,
    manifest_key,
    pack_key,
    parse_manifest_key,
)
from aotcache.protocol.v1.publish import Commit, Committed, OpenSession, Session
from aotcache.storage.base import ObjectStore

from ..index import publishing, write
from ..index.database import Database
from .reading import read_manifest


def open_session(
    database: Database, asked: OpenSession, *, now: int, lifetime: int, storage_url: str = ""
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
    with database.write() as db:
        publishing.open_session(db, asked.publish_id, key, now, now + lifetime)
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
        )


def commit(
    database: Database, store: ObjectStore, publish_id: str, asked: Commit, *, now: int
) -> Committed:
    """Add the manifests to the index, all or none, and end the session.

    Idempotent: what is committed already is confirmed, also after the session is over. Raises
    SessionExpiredError; GenerationTakenError when a generation is not the next one of its part;
    CondemnedError when a pack is missing or going; ManifestError; ObjectMissingError.
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
    manifests = [read_manifest(store, key) for key in new]
    manifests.sort(key=lambda manifest: manifest.statement.generation)
    stored = _stored_packs(database, store, namespace, manifests)
    with database.write() as db:
        session = publishing.require_session(db, publish_id, namespace, now)
        for manifest in manifests:
            tree, part = manifest.statement.tree, manifest.statement.part
            if publishing.is_committed(db, names[_key(manifest)]):
                continue
            newest = publishing.newest_parts(db, tree)
            (state,) = publishing.part_states(db, tree, [part], newest)
            if manifest.statement.generation != state.next_generation:
                raise GenerationTakenError(
                    f"{tree} {part}: generation {manifest.statement.generation} cannot be "
                    f"committed, the next is {state.next_generation}: open the session again "
                    "and rebase"
                )
            write.add_part(db, manifest, stored)
        db.delete(session)
    return done


def _key(manifest: Manifest) -> str:
    statement = manifest.statement
    return manifest_key(statement.tree, statement.part, statement.generation)


def _stored_packs(
    database: Database, store: ObjectStore, namespace: str, manifests: list[Manifest]
) -> dict[str, int]:
    """Sizes in storage of the packs that the index does not know yet."""
    names = {place.name for manifest in manifests for place in manifest.locations.packs}
    with database.read() as db:
        names -= publishing.known_packs(db, namespace, names)
    sizes = {}
    for name in sorted(names):
        try:
            sizes[name] = store.size(pack_key(namespace, name))
        except ObjectMissingError:
            continue  # add_part says which part lacks it
    return sizes
