"""What the doctor is asked about, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aotcache import settings
from aotcache.protocol.text import printable

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is to be looked at. url, storage_url, token_file, signing_key, trusted_keys: None where
    nobody named one. environ: the environment that the engine would have."""

    environ: Mapping[str, str]
    cache_root: str
    namespace: str
    url: str | None = None
    token_file: str | None = None
    storage_url: str | None = None
    transfer: str = settings.AUTO
    trust: str = ""
    signing_key: str | None = None
    trusted_keys: str | None = None

    @property
    def has_token(self) -> bool:
        return bool(self.token_file or self.environ.get(settings.TOKEN))


@dataclass(frozen=True, slots=True)
class Finding:
    """level: `ok`, `note` (works, and you should know) or `problem` (aotcache cannot help, or a
    start can fail, until it is changed). found, remedy: one printable line each; the remedy is
    empty where nothing is to be done, or where what was found says it."""

    level: str
    subject: str
    found: str
    remedy: str = ""


def ok(subject: str, found: str) -> Finding:
    return Finding(OK, subject, printable(found))


def note(subject: str, found: str, remedy: str = "") -> Finding:
    return Finding(NOTE, subject, printable(found), printable(remedy))


def problem(subject: str, found: str, remedy: str = "") -> Finding:
    return Finding(PROBLEM, subject, printable(found), printable(remedy))


def several(items: list[str], what: str) -> str:
    """`3 trees (ab12…, first of them)`: how many, and one by name. what: singular."""
    return f"{what} {items[0]}" if len(items) == 1 else f"{len(items)} {what}s (as {items[0]})"
