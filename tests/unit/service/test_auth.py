"""What a token looks like, and what its scope allows."""

from __future__ import annotations

import pytest

from aotcache.errors import ForbiddenError
from aotcache_service.auth import (
    ADMIN,
    PUBLISH,
    READ,
    SCOPES,
    Caller,
    new_token,
    parse_authorization,
)


def test_a_token_is_found_in_its_header() -> None:
    token = new_token()
    assert parse_authorization(f"Bearer {token.text}") == token
    assert parse_authorization(f"bearer  {token.text} ") == token
    assert token.fits(token.digest)
    assert not token.fits(new_token().digest)
    assert token.secret not in repr(token)
    assert len({new_token().text for _ in range(100)}) == 100


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_holds_those_before_it(scope: str) -> None:
    caller = Caller("id", scope, frozenset(("team",)))
    allowed = [one for one in SCOPES if caller.may(one, "team")]
    assert allowed == list(SCOPES[: SCOPES.index(scope) + 1])
    assert not any(caller.may(one, "other") for one in SCOPES)


def test_what_is_refused_says_what_the_token_is_for() -> None:
    caller = Caller("0123", PUBLISH, frozenset(("b", "a")))
    caller.require(READ, "a")
    with pytest.raises(
        ForbiddenError, match=r"token 0123 may not admin in namespace a: .* publish in a, b"
    ):
        caller.require(ADMIN, "a")
    with pytest.raises(ForbiddenError, match="may not read in namespace c"):
        caller.require(READ, "c")
    with pytest.raises(
        ForbiddenError,
        match=r"of all namespaces: `aotcache token create --scope read --namespace '\*'`",
    ):
        caller.require_all(READ)
    Caller("0123", READ).require_all(READ)
    with pytest.raises(ForbiddenError):
        Caller("0123", READ).require_all(PUBLISH)
