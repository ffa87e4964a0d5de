"""A publish session with the service: opened, kept alive while bytes move, committed."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from aotcache import __version__
from aotcache.errors import (
    AotcacheError,
    CondemnedError,
    GenerationTakenError,
    ManifestError,
    TrustError,
    UsageError,
    VersionError,
)
from aotcache.protocol.names import parse_manifest_key
from aotcache.protocol.sections import FORMAT
from aotcache.protocol.v1.publish import Commit, OpenSession, Session
from aotcache.sync.site import Site

logger = logging.getLogger(__name__)

_RENEW = 300.0  # seconds at most between renewals: this machine's clock may not be the service's


class PublishSession:
    """What the service is asked in the course of one publish id. Methods may be called from
    several threads, `open` of one whose session is over included: it is then a new session."""

    def __init__(self, site: Site, asked: OpenSession) -> None:
        self._site = site
        self._asked = asked
        self._renew_at = 0.0

    def open(self) -> Session:
        """Open the session, or extend it. Raises UsageError where this node's storage is not the
        service's: what is put there could never be committed; VersionError where the service reads
        no manifest that this aotcache writes."""
        session = self._site.index.open_session(self._asked)
        if FORMAT not in session.formats:
            raise VersionError(
                f"the service reads manifests of {', '.join(session.formats)}, and this aotcache, "
                f"{__version__}, writes {FORMAT}: upgrade the client"
            )
        ours, theirs = self._site.store.url.rstrip("/"), session.storage_url.rstrip("/")
        through_service = ours.startswith(("http:", "https:"))
        if theirs and not through_service and ours != theirs:
            raise UsageError(
                f"this node would put its bytes into {ours}, and the service's storage is "
                f"{theirs}: correct --storage-url (AOTCACHE_STORAGE_URL), or leave it out"
            )
        left = max(0.0, session.expires - time.time())
        self._renew_at = time.monotonic() + min(_RENEW, left / 2)
        return session

    def renew(self) -> None:
        """Extend the session once less than half of its lifetime is left."""
        if time.monotonic() >= self._renew_at:
            self.open()

    def commit(self, keys: Sequence[str]) -> dict[str, AotcacheError]:
        """Commit these manifests, all at once. Where the service refuses one for what it is, each
        is committed by itself: the ones that were refused are returned, with the reason."""
        try:
            self._commit(*keys)
        except (CondemnedError, ManifestError, TrustError) as error:
            if len(keys) == 1:
                return {keys[0]: error}
            logger.info("the service refused the commit, now one by one: %s", error)
        else:
            return {}
        refused: dict[str, AotcacheError] = {}
        for key in keys:
            self.open()  # a commit ends its session
            try:
                self._commit(key)
            except (CondemnedError, ManifestError, TrustError) as error:
                refused[key] = error
        return refused

    def _commit(self, *keys: str) -> None:
        self._site.index.commit(self._asked.publish_id, Commit(manifests=keys))

    def remove(self, key: str, why: AotcacheError) -> None:
        """Delete a manifest that nobody can use, so that its part can be published again. Raises
        GenerationTakenError where it is committed: then it is the operator's to delete."""
        name = parse_manifest_key(key)
        # Storage that this node has credentials for deletes whatever it is told to.
        free = any(
            state.part == name.part and state.next_generation == name.generation
            for state in self.open().parts
        )
        if not free:
            raise GenerationTakenError(f"{key} was committed meanwhile")
        logger.warning("%s was never committed and cannot be used, so it is deleted: %s", key, why)
        self._site.store.delete(key)
