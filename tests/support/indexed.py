"""Manifests put into a store and committed to an index, as a publisher would, and looked up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, event

from aotcache.protocol.names import VLLM_AOT, TreeKey, new_publish_id, parse_manifest_key
from aotcache.protocol.v1.collect import Reconciled
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss
from aotcache.protocol.v1.publish import Commit, OpenSession, Session
from aotcache.protocol.v1.trees import TreePage
from aotcache.storage import DirectStore, ObjectStore
from aotcache_service.index import lookup as lookups
from aotcache_service.index.database import Database
from aotcache_service.index.listing import Filter, list_trees
from aotcache_service.ops.listing import list_storage
from aotcache_service.ops.publish import commit, open_session
from aotcache_service.ops.reconcile import reconcile
from support.stored import HASH, PLATFORM, put_part

NOW = 1_000_000
TREE = TreeKey(namespace="default", layout=VLLM_AOT, hash=HASH, platform=PLATFORM.id)


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


def rebuild(database: Database, store: DirectStore) -> Reconciled:
    return reconcile(database, store, list_storage(store))


def rebuild_counted(database: Database, store: DirectStore) -> tuple[int, int, int]:
    """Trees, parts, and manifests that were skipped."""
    done = rebuild(database, store)
    return done.trees, done.parts, len(done.skipped)


def found(database: Database, **about: object) -> lookups.Found | Miss:
    asked: dict[str, object] = {"layout": VLLM_AOT, "hash": HASH, "platform": PLATFORM, **about}
    with database.read() as db:
        return lookups.lookup(db, Lookup(**asked))  # type: ignore[arg-type]


def look_up(database: Database, **about: object) -> Hit | Miss:
    answer = found(database, **about)
    return answer if isinstance(answer, Miss) else answer.hit


def hit(database: Database, **about: object) -> Hit:
    answer = look_up(database, **about)
    assert isinstance(answer, Hit), answer
    return answer


def miss(database: Database, **about: object) -> Miss:
    answer = look_up(database, **about)
    assert isinstance(answer, Miss), answer
    return answer


def counted(database: Database) -> tuple[int, ...]:
    """What a lookup of the one tree counts."""
    answer = found(database)
    assert isinstance(answer, lookups.Found), answer
    return tuple(answer.trees)


def page(database: Database, **about: object) -> TreePage:
    with database.read() as db:
        return list_trees(db, Filter(), **about)  # type: ignore[arg-type]


@contextmanager
def queries() -> Iterator[list[str]]:
    """The statements that databases are sent meanwhile."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if statement.startswith("SELECT"):
            sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)
