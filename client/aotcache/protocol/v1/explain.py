"""`POST /v1/explain`: how does the nearest stored tree differ from the one that is not there?
`GET /v1/misses`: which nodes miss, grouped by why."""

from __future__ import annotations

from dataclasses import dataclass, field

from aotcache.errors import UsageError
from aotcache.protocol.names import DEFAULT_NAMESPACE, check_hash, check_namespace, check_parts
from aotcache.protocol.platform import Difference, Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import check_factors

MAX_GROUPS = 100
MAX_NODES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Explain:
    """A lookup, and what is known of the start that made it. hash_factors: what the engine hashed.
    node: the host's name, where the miss is to be counted; empty: somebody only asks."""

    layout: str
    hash: str
    platform: Platform
    namespace: str = DEFAULT_NAMESPACE
    parts: tuple[str, ...] = ()
    recipe: Recipe | None = None
    hash_factors: dict[str, str] = field(default_factory=dict)
    node: str = ""

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        check_hash(self.layout, self.hash)
        check_parts(self.parts)
        check_factors(self.hash_factors)
        if len(self.node) > 255 or not self.node.isprintable():
            raise UsageError("a node's name is at most 255 printable characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """The stored tree that differs least. known: whether its factors and the asked ones are."""

    layout: str
    hash: str
    platform: str
    model: str
    publisher: str
    created: int
    platform_differences: tuple[Difference, ...]
    recipe_differences: tuple[Difference, ...]
    factor_differences: tuple[Difference, ...]
    known: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """reason: as of a Miss, `hit` where it is stored by now. cause: what differs, in a few words.
    nearest: None where nothing of the engine and model is stored."""

    reason: str
    message: str
    cause: str
    nearest: Nearest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MissGroup:
    """Nodes that missed for the same cause. misses: how often in all. last: Unix seconds. node,
    hash, model, differences: of the last one. nearest: the layout, hash and platform of the tree
    that was stored nearest then; empty: there was none. some_nodes: the last MAX_NODES of them."""

    reason: str
    cause: str
    nodes: int
    misses: int
    last: int
    node: str
    hash: str
    model: str
    differences: tuple[Difference, ...]
    namespace: str = ""
    nearest: dict[str, str] = field(default_factory=dict)
    some_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Misses:
    """Of the last days; the cause with the most nodes first, at most MAX_GROUPS."""

    groups: tuple[MissGroup, ...]
