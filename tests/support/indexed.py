"""Manifests put into a store and committed to an index, as a publisher would."""

from __future__ import annotations

from aotcache.protocol.names import VLLM_AOT, new_publish_id, parse_manifest_key
from aotcache.protocol.v1.publish import Commit, OpenSession, Session
from aotcache.storage import ObjectStore
from aotcache_service.index.database import Database
from aotcache_service.ops.publish import commit, open_session
from support.stored import HASH, PLATFORM, put_part

NOW = 1_000_000


def begin(
    database: Database,
    store: ObjectStore,
    publish_id: str | None = None,
    *,
    now: int = NOW,
    **about: object,
) -> Session:
    asked: dict[str, object] = {"layout": VLLM_AOT, "hash": HASH, "platform": PLATFORM, **about}
    asked.setdefault("parts", ("shared",))
    body = OpenSession(publish_id=publish_id or new_publish_id(), **asked)  # type: ignore[arg-type]
    return open_session(database, store, body, now=now, lifetime=3600)


def finish(database: Database, store: ObjectStore, *keys: str) -> None:
    tree = parse_manifest_key(keys[0]).tree
    session = begin(database, store, namespace=tree.namespace)
    commit(database, store, session.publish_id, Commit(manifests=keys), now=NOW)


def publish(database: Database, store: ObjectStore, content: bytes = b"x", **about: object) -> str:
    key = put_part(store, content, **about)  # type: ignore[arg-type]
    finish(database, store, key)
    return key
