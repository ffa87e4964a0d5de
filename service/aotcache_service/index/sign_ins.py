"""Who is signed in to the pages. The cookie is not kept, nor the token: only which one it was, so
that revoking it ends what it signed in, at once."""

from __future__ import annotations

import hashlib

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from ..auth import Caller
from . import tokens
from .operation import SignInRow


def sign_in(db: Session, cookie: str, token: str, *, now: int, expires: int) -> None:
    """Inside `Database.write`. Forgets those that are over."""
    db.execute(delete(SignInRow).where(SignInRow.expires <= now))
    db.add(SignInRow(digest=_digest(cookie), token=token, expires=expires))


def sign_out(db: Session, cookie: str) -> None:
    """Inside `Database.write`."""
    db.execute(delete(SignInRow).where(SignInRow.digest == _digest(cookie)))


def signed_in(db: Session, cookie: str, now: int) -> Caller | None:
    row = select(SignInRow.token).where(
        SignInRow.digest == _digest(cookie), SignInRow.expires > now
    )
    token = db.scalar(row)
    return None if token is None else tokens.caller_of(db, token, now)


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
