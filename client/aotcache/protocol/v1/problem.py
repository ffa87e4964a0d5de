"""The body of every answer that is not a 2xx."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """code: the error's code in errors.py, or `miss`. message: what happened and what to do."""

    code: str
    message: str
