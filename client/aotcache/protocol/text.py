"""Text from elsewhere, as it may be printed."""

from __future__ import annotations


def printable(text: str) -> str:
    """Names are whatever somebody chose, bytes that are no text included: on a terminal and in a
    log they must not move the cursor, nor end the line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
