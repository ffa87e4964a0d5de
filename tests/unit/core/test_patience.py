"""When to wait for another node's compile."""

from __future__ import annotations

import pytest

from aotcache.core.patience import AFTERWARDS, why_not
from aotcache.protocol.v1.leases import HELD, Lease


def lease(elapsed: float, compile_seconds: float | None) -> Lease:
    return Lease(
        state=HELD, seconds=15, elapsed=elapsed, compile_seconds=compile_seconds, node="gpu-1"
    )


@pytest.mark.parametrize(
    ("held", "waited", "left", "why"),
    [
        # Nothing is known: as long as the operator allows.
        (lease(0, None), 0, 60, ""),
        (lease(5000, None), 59, 1, ""),
        (lease(0, None), 60, 0, "waited 60 s"),
        # It is expected in time.
        (lease(0, 40), 0, 60, ""),
        (lease(39, 40), 0, 15, ""),
        # Compiling here is done before that is.
        (lease(0, 100), 0, 60, "gpu-1 will need 110 s more, and 60 s are left to wait"),
        (lease(0, 40), 0, 40, "gpu-1 will need 50 s more"),
        # It is done as soon.
        (lease(0, 3), 0, 60, "compiling takes 3 s, less than to wait for it"),
        # Slower than it was: as long as compiling here would have taken, and no longer.
        (lease(70, 40), 30, 300, ""),
        (lease(70, 40), 40 + AFTERWARDS + 1, 300, "and compiling took 40 s before"),
        (lease(101, 40), 0, 300, "gpu-1 has been compiling it for 101 s, which took 40 s before"),
    ],
)
def test_why_not(held: Lease, waited: float, left: float, why: str) -> None:
    found = why_not(held, waited, left)
    assert why in found
    assert bool(why) == bool(found)
