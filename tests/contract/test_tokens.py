"""Tokens, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from aotcache.errors import AotcacheError, NotFoundError, UnauthenticatedError
from aotcache_service.auth import ADMIN, PUBLISH, READ, Caller
from aotcache_service.index import tokens
from aotcache_service.index.database import Database

NOW = 1_800_000_000


def made(database: Database, *namespaces: str, scope: str = READ, expires: int = 0) -> str:
    """The Authorization header with a new token."""
    with database.write() as db:
        token = tokens.create(
            db, name="x", scope=scope, namespaces=namespaces, now=NOW, expires=expires
        )
    return f"Bearer {token.text}"


def asked(database: Database, *headers: str, now: int = NOW) -> list[Caller | Exception]:
    with database.read() as db:
        return tokens.callers(db, headers, now)


def refusal(database: Database, header: str, now: int = NOW) -> str:
    (error,) = asked(database, header, now=now)
    assert isinstance(error, UnauthenticatedError)
    return str(error)


def test_where_there_never_was_a_token_everybody_may_do_everything(database: Database) -> None:
    strange = f"Bearer aotc_{'0' * 12}_{'x' * 43}"
    assert asked(database, "", "Bearer other", strange) == [Caller()] * 3
    (caller, *_) = asked(database, "")
    assert isinstance(caller, Caller)
    assert caller.may(ADMIN, "team")


def test_from_the_first_one_on_everybody_needs_one(database: Database) -> None:
    one, all_of_them = made(database, "team"), made(database, "a", "*", scope=ADMIN)
    reader, admin, nobody, other = asked(
        database, one, all_of_them, "", "Bearer something-of-a-proxy"
    )
    assert isinstance(reader, Caller)
    assert (reader.scope, reader.namespaces) == (READ, frozenset(("team",)))
    assert (reader.may(READ, "team"), reader.may(READ, "default")) == (True, False)
    assert (reader.may(PUBLISH, "team"), reader.may(ADMIN, "team")) == (False, False)
    assert isinstance(admin, Caller)
    assert admin.namespaces is None
    assert all(admin.may(scope, "any") for scope in (READ, PUBLISH, ADMIN))
    assert "it has no token" in str(nobody)
    assert "not one of this service" in str(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header[:-1] + ("a" if header[-1] != "a" else "b"),
        lambda header: header.replace("Bearer", "Basic"),
        lambda header: header[:-1],
        lambda header: header + "x",
        lambda header: header.upper(),
        lambda header: header.partition(" ")[2],
    ],
)
def test_a_header_that_differs_is_nobodys(database: Database, change: object) -> None:
    header = made(database, "team")
    assert callable(change)
    assert "not one of this service" in refusal(database, change(header))


def test_of_a_secret_only_its_digest_is_kept(database: Database) -> None:
    secret = made(database, "team").split("_", 2)[2]
    with database.read() as db:
        rows = str(db.execute(text("SELECT * FROM tokens")).all())
        (row,) = tokens.listed(db)
    assert secret not in rows
    assert row.digest in rows
    assert "aotc" not in rows


def test_a_revoked_token_is_refused_at_once_and_for_ever(database: Database) -> None:
    header = made(database, "team")
    token_id = header.split("_")[1]
    with database.write() as db:
        tokens.revoke(db, token_id, NOW)
    assert refusal(database, header).startswith(f"token {token_id} is revoked")
    with database.write() as db:
        tokens.revoke(db, token_id, NOW + 5)
    with database.read() as db:
        assert tokens.listed(db)[0].revoked == NOW
        assert not tokens.any_usable(db, NOW)
    # Nobody is let in because there is none left.
    assert "it has no token" in refusal(database, "")
    with database.write() as db, pytest.raises(NotFoundError, match="there is no token 'nobody'"):
        tokens.revoke(db, "nobody", NOW)


def test_a_token_expires(database: Database) -> None:
    header = made(database, "team", expires=NOW + 10)
    (caller,) = asked(database, header, now=NOW + 9)
    assert isinstance(caller, Caller)
    assert "is expired" in refusal(database, header, now=NOW + 10)
    with database.read() as db:
        assert tokens.any_usable(db, NOW + 9)
        assert not tokens.any_usable(db, NOW + 10)
    assert "it has no token" in refusal(database, "", now=NOW + 10)


def test_no_refusal_shows_a_secret(database: Database) -> None:
    header = made(database, "team", expires=NOW)
    for error in asked(database, header, header[:-1] + "~", header.replace("Bearer", "Token")):
        assert isinstance(error, AotcacheError)
        assert header.split("_", 2)[2][:20] not in str(error)
