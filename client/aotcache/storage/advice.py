"""What to do about an answer of cloud storage, as far as its status and code tell."""

from __future__ import annotations

SKEWED = "RequestTimeTooSkewed"


def advice(status: int, code: str, storage: str = "S3") -> str:
    """Empty: they do not tell. storage: which cloud's, for messages."""
    if code == SKEWED:
        return f"set the clock of the machine that asks {storage}"
    if status == 429 or status >= 500:
        return f"{storage} itself is not well, or full: try again later"
    return ""
