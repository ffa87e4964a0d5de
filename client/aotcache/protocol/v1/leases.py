"""`POST /v1/leases`: is somebody compiling this part, or shall whoever asks?
`POST /v1/leases/end`: it is compiled no more here."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

from aotcache.errors import UsageError
from aotcache.protocol.names import check_part
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.lookup import Lookup

STORED, GRANTED, HELD, FREE = "stored", "granted", "held", "free"
MAX_WAIT = 30.0  # seconds

_HOLDER = re.compile(r"[0-9a-f]{32}")


def new_holder() -> str:
    return os.urandom(16).hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class AskLease:
    """lookup: what is not stored; part: which of it would be compiled. holder: made up by whoever
    would compile it, told to nobody else and the same in each call; empty: somebody only waits.
    recipe: of the start that asks, node: its host. wait: seconds that the answer may take while
    somebody else holds it."""

    lookup: Lookup
    part: str
    holder: str = ""
    recipe: Recipe | None = None
    node: str = ""
    wait: float = 0.0

    def __post_init__(self) -> None:
        check_part(self.part)
        _check_holder(self.holder or new_holder())
        if len(self.node) > 255 or not self.node.isprintable():
            raise UsageError("a node's name is at most 255 printable characters")
        if not (math.isfinite(self.wait) and 0 <= self.wait <= MAX_WAIT):
            raise UsageError(f"wait is 0 to {MAX_WAIT:.0f} seconds, not {self.wait}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """state: `stored`: pull it; `granted`: compile it, and ask again before `seconds` are over, for
    as long as it takes; `held`: `node` has been compiling it for `elapsed` seconds; `free`: nobody
    is, and who asks would not. compile_seconds: what it took a start of this recipe before; None:
    that is not known."""

    state: str
    seconds: int
    elapsed: float = 0.0
    compile_seconds: float | None = None
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndLease:
    """lookup, part, holder: as it was asked for."""

    lookup: Lookup
    part: str
    holder: str

    def __post_init__(self) -> None:
        check_part(self.part)
        _check_holder(self.holder)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseEnded:
    """ended: it was held."""

    ended: bool


def _check_holder(value: str) -> None:
    if not _HOLDER.fullmatch(value):
        raise UsageError("a holder is 32 hex characters, as each makes up for itself")
