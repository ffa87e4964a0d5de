"""`POST /v1/keys/revoke`: what this key signed is not served any more."""

from __future__ import annotations

from dataclasses import dataclass

from aotcache.protocol.names import DEFAULT_NAMESPACE, check_key_id, check_namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeKey:
    """key: its id."""

    key: str
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        check_key_id(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """manifests: that were served until now. They stay in storage, and their numbers are used up;
    where an earlier generation of another key is there, that is served."""

    manifests: tuple[str, ...]
