"""Revoking a signing key, also in object storage: a rebuilt index knows it too."""

from __future__ import annotations

import logging

from aotcache.errors import ObjectExistsError
from aotcache.protocol.names import revoked_key
from aotcache.protocol.v1.keys import Revoked, RevokeKey
from aotcache.storage.base import ObjectStore

from ..index import withheld
from ..index.database import Database

log = logging.getLogger(__name__)


def revoke_key(database: Database, store: ObjectStore, asked: RevokeKey) -> Revoked:
    """Stop serving what lists a signature of this key. Repeating it changes nothing."""
    try:
        store.put(revoked_key(asked.namespace, asked.key), b"")
    except ObjectExistsError:
        log.debug("key %s is marked already", asked.key)
    with database.write() as db:
        served = withheld.revoke(db, asked.namespace, asked.key)
    log.warning("key %s is revoked in %s: %d parts", asked.key, asked.namespace, len(served))
    return Revoked(manifests=tuple(served))
