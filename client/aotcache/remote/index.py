"""The service's index: one method per call of the API, no state between calls.

A call imports what it is answered with: there are many kinds, and a command makes one or two calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from aotcache.errors import NotFoundError
from aotcache.net.http import HttpClient
from aotcache.protocol.names import TreeKey, check_publish_id

if TYPE_CHECKING:
    from aotcache.protocol.v1.audit import Audit
    from aotcache.protocol.v1.collect import Collect, Collection
    from aotcache.protocol.v1.explain import Explain, Explanation, Misses
    from aotcache.protocol.v1.keys import Revoked, RevokeKey
    from aotcache.protocol.v1.leases import AskLease, EndLease, Lease, LeaseEnded
    from aotcache.protocol.v1.lookup import Hit, Lookup, Miss
    from aotcache.protocol.v1.outcomes import Outcome
    from aotcache.protocol.v1.publish import Commit, Committed, OpenSession, Session
    from aotcache.protocol.v1.quarantine import Quarantine, Quarantined, Release, Released
    from aotcache.protocol.v1.ready import Ready
    from aotcache.protocol.v1.recipes import RecipeHit, RecipeLookup
    from aotcache.protocol.v1.stats import Stats
    from aotcache.protocol.v1.trees import Deleted, Pinned, TreeDetails, TreePage


class _Part(msgspec.Struct):
    part: str
    generation: int


class _Tree(msgspec.Struct):
    parts: tuple[_Part, ...]


class _Trees(msgspec.Struct):
    """Of TreeDetails what an unchanged tree needs; the rest takes longer to import than to ask."""

    trees: tuple[_Tree, ...]


class Index:
    """What is stored. Any replica answers any call.

    Every method raises UnavailableError when the service does not answer as one, and the class of
    errors.py that its answer names. A miss is a result, never an exception.
    """

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self.url = client.url
        """Of the service."""

    def lookup(self, asked: Lookup) -> Hit | Miss:
        from aotcache.protocol.v1.lookup import Hit, Miss

        return self._client.request_json("POST", "/v1/lookup", asked, Hit, miss=Miss, repeat=True)

    def lookup_recipe(self, asked: RecipeLookup) -> RecipeHit | Miss:
        from aotcache.protocol.v1.lookup import Miss
        from aotcache.protocol.v1.recipes import RecipeHit

        return self._client.request_json(
            "POST", "/v1/recipes/lookup", asked, RecipeHit, miss=Miss, repeat=True
        )

    def trees(
        self,
        *,
        namespace: str | None = None,
        layout: str | None = None,
        hash: str | None = None,
        engine: str | None = None,
        model: str | None = None,
        platform: str | None = None,
        publisher: str | None = None,
        pinned: bool = False,
        quarantined: bool = False,
        sort: str | None = None,
        order: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> TreePage:
        """One page of trees. None: not filtered by it. hash: its start. platform: an id.
        pinned, quarantined: only what is. sort: one of `SORTS`. order: `asc` or `desc`. cursor: of
        the page before."""
        from aotcache.protocol.v1.trees import TreePage

        query = _query(
            namespace=namespace,
            layout=layout,
            hash=hash,
            engine=engine,
            model=model,
            platform=platform,
            publisher=publisher,
            pinned=1 if pinned else None,
            quarantined=1 if quarantined else None,
            sort=sort,
            order=order,
            cursor=cursor,
            limit=limit,
        )
        return self._client.request_json("GET", "/v1/trees", None, TreePage, query=query)

    def tree(
        self,
        hash: str,
        *,
        namespace: str | None = None,
        layout: str | None = None,
        platform: str | None = None,
    ) -> TreeDetails:
        """Every tree of one hash. Raises NotFoundError where there is none."""
        from aotcache.protocol.v1.trees import TreeDetails

        query = _query(namespace=namespace, layout=layout, platform=platform)
        return self._client.request_json("GET", _tree(hash), None, TreeDetails, query=query)

    def generations(self, key: TreeKey) -> dict[str, int]:
        """The newest generation of each part of one tree; empty where it is not stored."""
        query = _query(namespace=key.namespace, layout=key.layout, platform=key.platform)
        try:
            found = self._client.request_json("GET", _tree(key.hash), None, _Trees, query=query)
        except NotFoundError:
            return {}
        return {part.part: part.generation for tree in found.trees for part in tree.parts}

    def delete(
        self,
        hash: str,
        *,
        namespace: str | None = None,
        layout: str | None = None,
        platform: str | None = None,
    ) -> Deleted:
        """Delete the trees of one hash. Raises NotFoundError where there is none."""
        from aotcache.protocol.v1.trees import Deleted

        query = _query(namespace=namespace, layout=layout, platform=platform)
        return self._client.request_json("DELETE", _tree(hash), None, Deleted, query=query)

    def pin(
        self,
        hash: str,
        *,
        namespace: str | None = None,
        layout: str | None = None,
        platform: str | None = None,
        pinned: bool = True,
    ) -> Pinned:
        """Keep the trees of one hash, or let them go. Raises NotFoundError where there is none."""
        from aotcache.protocol.v1.trees import Pinned

        query = _query(namespace=namespace, layout=layout, platform=platform)
        method, path = "PUT" if pinned else "DELETE", f"{_tree(hash)}/pin"
        return self._client.request_json(method, path, None, Pinned, query=query)

    def collect(self, asked: Collect) -> Collection:
        """Start a collection. Raises BusyError while one is under way."""
        from aotcache.protocol.v1.collect import Collection

        return self._client.request_json("POST", "/v1/collect", asked, Collection)

    def collection(self) -> Collection:
        """The one that is under way, or the last."""
        from aotcache.protocol.v1.collect import Collection

        return self._client.request_json("GET", "/v1/collect", None, Collection)

    def audit(self, namespace: str | None = None, *, before: int = 0, limit: int = 100) -> Audit:
        """What was changed by hand; None: in all namespaces. before: the action of this id."""
        from aotcache.protocol.v1.audit import Audit

        query = _query(namespace=namespace, before=before, limit=limit)
        return self._client.request_json("GET", "/v1/audit", None, Audit, query=query)

    def ready(self) -> Ready:
        """Raises UnavailableError while it does not answer, or is not ready."""
        from aotcache.protocol.v1.ready import Ready

        return self._client.request_json("GET", "/readyz", None, Ready)

    def stats(self) -> Stats:
        """Of the namespaces that the token may read."""
        from aotcache.protocol.v1.stats import Stats

        return self._client.request_json("GET", "/v1/stats", None, Stats)

    def tell(self, said: Outcome | Explain) -> None:
        """An outcome, or a miss. Raises as these do."""
        from aotcache.protocol.v1.outcomes import Outcome

        if isinstance(said, Outcome):
            self.outcome(said)
        else:
            self.explain(said)

    def explain(self, asked: Explain) -> Explanation:
        """How the nearest stored tree differs. Counts the miss where `asked` names a node."""
        from aotcache.protocol.v1.explain import Explanation

        return self._client.request_json("POST", "/v1/explain", asked, Explanation, repeat=True)

    def misses(self, namespace: str | None = None) -> Misses:
        """Which nodes missed, by why; None: in all namespaces."""
        from aotcache.protocol.v1.explain import Misses

        query = _query(namespace=namespace)
        return self._client.request_json("GET", "/v1/misses", None, Misses, query=query)

    def quarantined(self, namespace: str | None = None) -> Quarantined:
        from aotcache.protocol.v1.quarantine import Quarantined

        query = _query(namespace=namespace)
        return self._client.request_json("GET", "/v1/quarantine", None, Quarantined, query=query)

    def quarantine(self, asked: Quarantine) -> Quarantined:
        """Raises NotFoundError where nothing of it is served."""
        from aotcache.protocol.v1.quarantine import Quarantined

        return self._client.request_json("POST", "/v1/quarantine", asked, Quarantined)

    def release(self, asked: Release) -> Released:
        """Raises NotFoundError where nothing of it is quarantined."""
        from aotcache.protocol.v1.quarantine import Released

        return self._client.request_json("POST", "/v1/quarantine/release", asked, Released)

    def revoke_key(self, asked: RevokeKey) -> Revoked:
        from aotcache.protocol.v1.keys import Revoked

        return self._client.request_json("POST", "/v1/keys/revoke", asked, Revoked, repeat=True)

    def open_session(self, asked: OpenSession) -> Session:
        from aotcache.protocol.v1.publish import Session

        return self._client.request_json("POST", "/v1/publish", asked, Session, repeat=True)

    def commit(self, publish_id: str, commit: Commit) -> Committed:
        """Raises GenerationTakenError, SessionExpiredError or CondemnedError where it fails."""
        from aotcache.protocol.v1.publish import Committed

        path = f"/v1/publish/{check_publish_id(publish_id)}/commit"
        return self._client.request_json("POST", path, commit, Committed, repeat=True)

    def lease(self, asked: AskLease) -> Lease:
        """Takes `asked.wait` seconds where somebody else compiles it."""
        from aotcache.protocol.v1.leases import Lease

        return self._client.request_json("POST", "/v1/leases", asked, Lease, repeat=True)

    def end_lease(self, asked: EndLease) -> LeaseEnded:
        from aotcache.protocol.v1.leases import LeaseEnded

        return self._client.request_json("POST", "/v1/leases/end", asked, LeaseEnded, repeat=True)

    def outcome(self, outcome: Outcome) -> None:
        data = msgspec.json.encode(outcome)
        headers = {"Content-Type": "application/json"}
        self._client.request_bytes("POST", "/v1/outcomes", data, headers=headers)


def _tree(hash: str) -> str:
    return f"/v1/trees/{quote(hash, safe='')}"


def _query(**values: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}
