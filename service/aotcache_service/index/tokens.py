"""Tokens in the index: made, listed, revoked, and found for requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, bindparam, exists, select
from sqlalchemy.orm import Session

from aotcache.errors import NotFoundError, UsageError

from ..auth import ALL_NAMESPACES, Caller, Token, new_token, no_token, over, parse_authorization
from .operation import TokenRow

ADOPTED, KNOWN, REVOKED = "adopted", "known", "revoked"

# Plain rows: every request asks for one.
_BY_ID = select(*TokenRow.__table__.c).where(TokenRow.id.in_(bindparam("ids", expanding=True)))
_ANY = select(exists(select(TokenRow.id)))


def create(
    db: Session, *, name: str, scope: str, namespaces: Sequence[str], now: int, expires: int = 0
) -> Token:
    """expires: Unix seconds; 0: never."""
    token = new_token()
    _add(db, token, name=name, scope=scope, namespaces=namespaces, now=now, expires=expires)
    return token


def adopt(
    db: Session, token: Token, *, name: str, scope: str, namespaces: Sequence[str], now: int
) -> str:
    """Know a token that was made elsewhere. What became of it: ADOPTED, or nothing as it is KNOWN
    already, or REVOKED, and stays so. Raises UsageError where it is known as another."""
    row = db.get(TokenRow, token.id)
    if row is None:
        _add(db, token, name=name, scope=scope, namespaces=namespaces, now=now, expires=0)
        return ADOPTED
    known = (row.scope, row.namespaces)
    if not token.fits(row.digest) or known != (scope, sorted(set(namespaces))):
        raise UsageError(
            f"token {token.id} is known already, to {row.scope} in {', '.join(row.namespaces)} or "
            "with another secret: make a new one"
        )
    return REVOKED if row.revoked else KNOWN


def _add(
    db: Session,
    token: Token,
    *,
    name: str,
    scope: str,
    namespaces: Sequence[str],
    now: int,
    expires: int,
) -> None:
    db.add(
        TokenRow(
            id=token.id,
            digest=token.digest,
            name=name,
            scope=scope,
            namespaces=sorted(set(namespaces)),
            created=now,
            expires=expires,
            revoked=0,
        )
    )


def listed(db: Session) -> Sequence[TokenRow]:
    """All that were ever made, the last one first."""
    return db.scalars(select(TokenRow).order_by(TokenRow.created.desc(), TokenRow.id)).all()


def revoke(db: Session, token_id: str, now: int) -> None:
    """Raises NotFoundError. Revoking it again changes nothing."""
    row = db.get(TokenRow, token_id)
    if row is None:
        raise NotFoundError(f"there is no token {token_id[:40]!r}: `aotcache token list` names all")
    row.revoked = row.revoked or now


def usable(now: int) -> tuple[ColumnElement[bool], ...]:
    """Conditions on TokenRow."""
    return TokenRow.revoked == 0, (TokenRow.expires == 0) | (TokenRow.expires > now)


def any_usable(db: Session, now: int) -> bool:
    return bool(db.scalar(select(exists(select(TokenRow.id).where(*usable(now))))))


def callers(db: Session, headers: Sequence[str], now: int) -> list[Caller | Exception]:
    """For each Authorization header who asks, or why that is nobody. One statement for all."""
    given = {header: parse_authorization(header) for header in headers}
    ids = {token.id for token in given.values() if token is not None}
    rows = {row.id: row for row in db.execute(_BY_ID, {"ids": list(ids)})} if ids else {}
    if not rows and not any_made(db):
        return [Caller() for _ in headers]
    found = {header: _caller(header, token, rows, now) for header, token in given.items()}
    return [found[header] for header in headers]


def caller_of(db: Session, token_id: str, now: int) -> Caller | None:
    """Who has this token, while it is good."""
    row = db.scalar(select(TokenRow).where(TokenRow.id == token_id, *usable(now)))
    return None if row is None else _may(row)


def any_made(db: Session) -> bool:
    """Whether there ever was a token: all calls need one then."""
    return bool(db.scalar(_ANY))


def _caller(
    header: str, token: Token | None, rows: Mapping[str, Any], now: int
) -> Caller | Exception:
    row = None if token is None else rows.get(token.id)
    if token is None or row is None or not token.fits(row.digest):
        return no_token(header)
    if row.revoked:
        return over(row.id, "revoked")
    if row.expires and row.expires <= now:
        return over(row.id, "expired")
    return _may(row)


def _may(row: Any) -> Caller:
    namespaces = None if ALL_NAMESPACES in row.namespaces else frozenset(row.namespaces)
    return Caller(row.id, row.scope, namespaces)
