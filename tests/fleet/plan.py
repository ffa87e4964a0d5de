"""What the nodes of a fleet are to do, and what became of each."""

from __future__ import annotations

import msgspec

# How a start ended: what it needed was stored; it waited for another node's compile, and then it
# was; it compiled.
HIT, WAITED, COMPILED = "hit", "waited", "compiled"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One start of a node. at: seconds after the beginning. name: of what it runs, from which the
    hash comes; model, version: of its recipe."""

    node: int
    at: float
    name: str
    model: str
    version: str = "0.32.0"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """url: of the service. kernels, inductor: directories that a compile's output is copied from.
    home: that each node has its cache root in. wait: AOTCACHE_WAIT. compile_seconds: of a
    compile, and what is recorded that it took. keep: cache roots stay."""

    url: str
    kernels: str
    inductor: str
    home: str
    wait: float
    compile_seconds: float
    recorded_seconds: float
    jobs: tuple[Job, ...]
    keep: bool = False


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """seconds: from the start until the tree was there. lookups: seconds of each. model: digest of
    the tree's. error: why there is none, or why it was not published. untold: why its outcome was
    not told, and waits for the node's next start."""

    node: int
    how: str
    seconds: float
    lookups: tuple[float, ...]
    moved_bytes: int
    model: str
    error: str = ""
    untold: str = ""
