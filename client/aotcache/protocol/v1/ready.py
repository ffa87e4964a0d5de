"""`GET /readyz`, the same in every version of the API: can it answer, and what does it speak?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """version: of the service. api: versions of the API that it answers. Empty where it is older
    than these fields."""

    status: str
    version: str = ""
    api: tuple[int, ...] = ()
