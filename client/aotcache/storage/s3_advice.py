"""What to do about an answer of S3, as far as its status and code tell."""

from __future__ import annotations

SKEWED = "RequestTimeTooSkewed"


def advice(status: int, code: str) -> str:
    """Empty: they do not tell."""
    if code == SKEWED:
        return "set the clock of the machine that asks S3"
    if status == 429 or status >= 500:
        return "S3 itself is not well, or full: try again later"
    return ""
