"""`POST /v1/lookup`: is this tree stored for this platform? 200 with a Hit, 404 with a Miss."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from aotcache.protocol.names import DEFAULT_NAMESPACE, check_hash, check_namespace, check_parts
from aotcache.protocol.platform import Difference, Platform
from aotcache.protocol.record import TreeUsed

UNKNOWN_HASH = "unknown_hash"
OTHER_PLATFORM = "other_platform"
PART_MISSING = "part_missing"
QUARANTINED = "quarantined"
UNKNOWN_RECIPE = "unknown_recipe"
OTHER_RECIPE = "other_recipe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """parts: the parts that are needed; empty: whatever is stored. manifests, urls: answer
    with their manifests, and with URLs of their packs, for who is about to pull them."""

    layout: str
    hash: str
    platform: Platform
    namespace: str = DEFAULT_NAMESPACE
    parts: tuple[str, ...] = ()
    manifests: bool = False
    urls: bool = False

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        check_hash(self.layout, self.hash)
        check_parts(self.parts)

    def before_a_pull(self) -> Lookup:
        """The same, to be answered with all that a pull asks for next."""
        return replace(self, manifests=True, urls=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """The newest generation of a part. Bytes: of all files, and of the packs' frames they are in.

    manifest: object key. signers: key ids of its signatures (to show; the node verifies itself).
    data: the manifest's bytes, base64 in JSON, where they were asked for; empty: fetch it.
    """

    part: str
    generation: int
    manifest: str
    files: int
    raw_bytes: int
    stored_bytes: int
    signers: tuple[str, ...] = ()
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """platform: id of the stored tree (that of any CPU, perhaps). missing: expected, not stored.

    trees: the others that the starts which compiled this one used, to pull in the same go: a
    loader may need two trees together. They need not be stored.
    objects: where manifests and packs are read through the service, `{objects}/{key}`.
    storage_url: where they lie, for nodes with credentials of their own; empty: only the service
    can reach them.
    urls: to read packs straight from object storage, by key, where they were asked for and this
    service signs; good for url_seconds. Whoever has one can use it, so they are in no repr.
    """

    namespace: str
    layout: str
    hash: str
    platform: str
    parts: tuple[StoredPart, ...]
    missing: tuple[str, ...] = ()
    compile_seconds: float | None = None
    objects: str = "/v1/objects"
    storage_url: str = ""
    trees: tuple[TreeUsed, ...] = ()
    urls: dict[str, str] = field(default_factory=dict, repr=False)
    url_seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """Why there is nothing to pull. Not an error, and an error is never reported as one.

    reason: `unknown_hash`; `other_platform`: stored, but only where `differences` differ (of the
    nearest stored platform); `part_missing`: `missing` are not stored, `available` are;
    `quarantined`: nodes failed with it, and the message says how; `unknown_recipe`: nothing of this
    engine and model; `other_recipe`: only of recipes in which
    `differences` differ (of the nearest).
    """

    reason: str
    message: str
    code: str = "miss"
    differences: tuple[Difference, ...] = ()
    missing: tuple[str, ...] = ()
    available: tuple[str, ...] = field(default=())
