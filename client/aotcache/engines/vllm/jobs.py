"""What an engine process asks its companion, and what it is answered: a line of JSON each."""

from __future__ import annotations

import msgspec

from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe


class Fetch(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Pull the tree of `hash`, or where it is empty those of `recipe`. recipe: of this start; what
    was compiled for another graph is not pulled, unless any_recipe."""

    cache_root: str
    namespace: str
    part: str
    platform: Platform
    recipe: Recipe
    hash: str = ""
    any_recipe: bool = False


class Tell(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Tell the service the outcomes that are kept under a cache root."""

    cache_root: str


class Wait(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Wait for the node that compiles the tree of `hash`, at most `seconds`; where nobody does,
    have others wait for this one, if `hold`."""

    cache_root: str
    namespace: str
    part: str
    platform: Platform
    recipe: Recipe
    hash: str
    seconds: float
    hold: bool


class Compiled(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The tree of `hash` was compiled, and is to be published; not `published`: it will not be. Not
    answered."""

    hash: str
    published: bool = True


class Brought(msgspec.Struct, frozen=True, kw_only=True):
    """A tree that a fetch put on the disk, or found there whole. unsigned: parts that nobody signed
    are accepted here."""

    layout: str
    hash: str
    seconds: float
    moved_bytes: int
    compile_seconds: float | None
    installed: int
    unsigned: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """brought; why: of a miss, `reason: message`; error: what failed after that, and `fatal` where
    it makes no sense to ask again. turn: of a Wait, the state of the lease; `held` comes before the
    last answer, with who is waited for."""

    brought: tuple[Brought, ...] = ()
    why: str = ""
    error: str = ""
    fatal: bool = False
    turn: str = ""
