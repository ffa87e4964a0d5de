"""Tables about the service itself: who may ask, what happened, what was done by hand.

Times are Unix seconds, sizes bytes.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from .models import Base


class MissRow(Base):
    """A node looked for a tree and had to compile. nearest: layout, hash and platform of the stored
    tree that differed least, empty: there was none; differences: its Differences. cause: what they
    are, in words that many nodes share."""

    __tablename__ = "misses"

    namespace: Mapped[str] = mapped_column(primary_key=True)
    layout: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(primary_key=True)
    platform_id: Mapped[str] = mapped_column(primary_key=True)
    node: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    reason: Mapped[str]
    cause: Mapped[str]
    differences: Mapped[list[dict[str, Any]]]
    nearest: Mapped[dict[str, str]]
    count: Mapped[int]
    last: Mapped[int] = mapped_column(index=True)

    __table_args__ = (Index(None, "reason", "cause", "last"),)


class TokenRow(Base):
    """digest: SHA-256 of the secret, as hex. namespaces: names, or `*`. expires, revoked: 0 for
    never. A row stays for ever: that there has been a token is why all calls need one."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    name: Mapped[str]
    scope: Mapped[str]
    namespaces: Mapped[list[str]]
    created: Mapped[int]
    expires: Mapped[int]
    revoked: Mapped[int]


class JobRow(Base):
    """A job that one replica at a time does. holder: whose turn it is, until then. started,
    finished, report: of the last one, 0 and empty for never. done: when the last one that did all
    of it ended. tried: when the last one that was to do all of it began."""

    __tablename__ = "jobs"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    until: Mapped[int]
    started: Mapped[int]
    finished: Mapped[int]
    done: Mapped[int]
    tried: Mapped[int] = mapped_column(server_default="0")
    report: Mapped[dict[str, Any]]


class HistoryRow(Base):
    """What happened in an hour, added up. hour: when it began. what: `history` names them."""

    __tablename__ = "history"

    namespace: Mapped[str] = mapped_column(primary_key=True)
    hour: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float]

    __table_args__ = (Index(None, "hour"),)


class AuditRow(Base):
    """What somebody changed by hand. token: its id, empty where none is asked for. way: `api` or
    `pages`. namespace: empty for all. outcome: `begun`, `done`, maybe with what
    was, or how it failed."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[int]
    token: Mapped[str]
    way: Mapped[str]
    namespace: Mapped[str]
    action: Mapped[str]
    what: Mapped[str]
    outcome: Mapped[str]

    __table_args__ = (Index(None, "namespace", "id"),)


class SignInRow(Base):
    """Somebody signed in to the pages. digest: SHA-256 of the cookie, as hex. token: its id."""

    __tablename__ = "sign_ins"

    digest: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[str]
    expires: Mapped[int] = mapped_column(index=True)


class LeaseRow(Base):
    """A node compiles this part. any_cpu: the platform's id without the CPU, that it may be
    published under. compile_seconds: what it took before, if that was known when it began."""

    __tablename__ = "leases"

    hash: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str] = mapped_column(primary_key=True)
    layout: Mapped[str] = mapped_column(primary_key=True)
    platform_id: Mapped[str] = mapped_column(primary_key=True)
    part: Mapped[str] = mapped_column(primary_key=True)
    any_cpu: Mapped[str]
    holder: Mapped[str]
    node: Mapped[str]
    started: Mapped[float]
    expires: Mapped[float] = mapped_column(index=True)
    compile_seconds: Mapped[float | None]
