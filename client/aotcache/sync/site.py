"""The site: the one place that trees are published to and pulled from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from aotcache.core.limits import Limits
from aotcache.errors import ManifestError, TrustError
from aotcache.protocol.names import manifest_key, sibling_key
from aotcache.sync.progress import Progress

if TYPE_CHECKING:
    from aotcache.core.leaks import Scanner
    from aotcache.core.trust import SigningKey, TrustPolicy
    from aotcache.protocol.manifest import Manifest
    from aotcache.remote.index import Index
    from aotcache.storage import ObjectStore


@dataclass(frozen=True, slots=True)
class Site:
    """index: what is stored; store: the bytes; policy: whose manifests are accepted; signer: signs
    what is published from here (None: published unsigned); scanner: looks for secrets in it (None:
    nobody does); limits: on what is taken from there."""

    index: Index
    store: ObjectStore
    policy: TrustPolicy
    signer: SigningKey | None = None
    scanner: Scanner | None = None
    limits: Limits = field(default_factory=Limits)
    progress: Progress = field(default_factory=Progress)

    def manifest(self, key: str, known: bytes | None = None) -> Manifest:
        """Fetch a manifest and accept it under the policy. known: its bytes, if this node has seen
        it before; they are used if they are that. Raises TrustError, ManifestError (also for a good
        manifest of something else than its key says), ObjectMissingError."""
        if known is not None:
            with suppress(TrustError, ManifestError):
                return self._accept(key, known)
        return self._accept(key, self.store.get(key))

    def manifests(
        self, keys: Sequence[str], known: Mapping[str, bytes] = MappingProxyType({})
    ) -> Iterator[Manifest]:
        """In this order. All are fetched now, several at once; each is accepted when its turn
        comes. known: by key. Raises as `manifest` does."""
        from concurrent.futures import ThreadPoolExecutor

        lacking = [key for key in keys if key not in known]
        found: dict[str, bytes] = {}
        if lacking:
            with ThreadPoolExecutor(8, thread_name_prefix="aotcache-manifest") as pool:
                found = dict(zip(lacking, pool.map(self.store.get, lacking), strict=True))

        def accepted(key: str) -> Manifest:
            return self._accept(key, found[key]) if key in found else self.manifest(key, known[key])

        return map(accepted, keys)

    def _accept(self, key: str, data: bytes) -> Manifest:
        def read(generation: int) -> bytes:
            base = self.store.get(sibling_key(key, generation))
            self.limits.check_size(base, key)
            return base

        self.limits.check_size(data, key)
        found = self.policy.accept(data, key, read)
        self.limits.check(found, key)
        said = found.statement
        if manifest_key(said.tree, said.part, said.generation) != key:
            raise ManifestError(
                f"{key} holds the manifest of {said.tree}, {said.part}, generation "
                f"{said.generation}: nothing was done with it; find out who wrote it"
            )
        return found
