"""`POST /v1/outcomes`: what the engine did with a pulled part."""

from __future__ import annotations

from dataclasses import dataclass

from aotcache.protocol.names import (
    DEFAULT_NAMESPACE,
    check_generation,
    check_hash,
    check_namespace,
    check_part,
    check_platform_id,
)

LOADED, LOAD_FAILED, UNUSED, CRASHED = "loaded", "load_failed", "unused", "crashed"
# What vLLM says of a tree that another build of the same version compiled: the tree is good.
OTHER_SOURCE = "Source code has changed"
OUTCOMES = (LOADED, LOAD_FAILED, UNUSED, CRASHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """platform: id of the stored tree. node: the host's name. seconds: that the pull took."""

    layout: str
    hash: str
    platform: str
    part: str
    generation: int
    outcome: str
    reason: str = ""
    node: str = ""
    seconds: float = 0.0
    bytes: int = 0
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        check_hash(self.layout, self.hash)
        check_platform_id(self.platform)
        check_part(self.part)
        check_generation(self.generation)
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome is one of {', '.join(OUTCOMES)}")
        if len(self.reason) > 2000 or len(self.node) > 255:
            raise ValueError("reason has at most 2000 characters, node 255")
        # They are shown on terminals and stand in logs, and any reader can tell some.
        if not (self.reason.isprintable() and self.node.isprintable()):
            raise ValueError("reason and node are printable")
