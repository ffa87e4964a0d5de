"""`GET /v1/audit`: what was changed by hand."""

from __future__ import annotations

from dataclasses import dataclass

MAX_ACTIONS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """at: Unix seconds. token: its id, empty where none was asked for. way: `api` or `pages`.
    namespace: empty for all. outcome: `begun`, `done`, maybe with what was, or how it failed."""

    id: int
    at: int
    token: str
    way: str
    namespace: str
    action: str
    what: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The last ones first."""

    actions: tuple[Action, ...]
