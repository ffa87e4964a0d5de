"""Whether to wait for another node's compile, or to compile as well."""

from __future__ import annotations

from aotcache.protocol.v1.leases import Lease

# Seconds from the end of a compile until others have it: it settles, is published and pulled.
AFTERWARDS = 10.0


def why_not(held: Lease, waited: float, left: float) -> str:
    """Why not to wait any longer for what `held` says of the other; empty: do. waited: seconds so
    far, left: that are allowed.

    Where it is not known how long compiling takes, all that is allowed. Else never longer than
    compiling here would have taken, and not at all where it is not expected in time or compiling
    is soon done."""
    if left <= 0:
        return f"waited {waited:.0f} s"
    if held.compile_seconds is None:
        return ""
    if held.compile_seconds < AFTERWARDS:
        return f"compiling takes {held.compile_seconds:.0f} s, less than to wait for it"
    whole = held.compile_seconds + AFTERWARDS
    if waited > whole:
        return f"waited {waited:.0f} s, and compiling took {held.compile_seconds:.0f} s before"
    if held.elapsed > 2 * whole:
        return (
            f"{held.node} has been compiling it for {held.elapsed:.0f} s, which took "
            f"{held.compile_seconds:.0f} s before"
        )
    due = whole - held.elapsed
    if due > left:
        return f"{held.node} will need {due:.0f} s more, and {left:.0f} s are left to wait"
    return ""
