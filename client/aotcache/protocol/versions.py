"""What two releases have to agree on, and how far apart they may be (docs/operations.md)."""

from __future__ import annotations

# Of the API, ascending: the n of the paths `/v{n}/…` that this aotcache asks for and answers.
API = (1,)


def fit(one: str, other: str) -> bool:
    """Whether two releases work together: at most one minor version apart. True for what is no
    release's number: nothing is known of it."""
    try:
        (major, minor), (other_major, other_minor) = (
            [int(number) for number in version.split(".")[:2]] for version in (one, other)
        )
    except ValueError:
        return True
    return major == other_major and abs(minor - other_minor) <= 1
