"""Tokens: who may do what, and in which namespaces.

    aotc_{id}_{secret}    id: 12 hex characters, shown in lists and logs
                          secret: 43 characters of A-Za-z0-9_-, which stand for 256 random bits

A token has one scope, which holds those before it:

    read       look up, list, read objects, tell outcomes
    publish    put objects, open and commit publish sessions
    admin      delete trees, revoke keys, release what is quarantined

and namespaces, or `*` for all of them. Kept is the SHA-256 of the secret alone: 256 random bits
need no slow hash. A service for which no token was ever made asks for none; it listens on loopback
only. Where there has been one, all calls need one, also when all are revoked or expired.

Who may not do something learns nothing by trying: the answer is the same whether or not there is
such a tree.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from aotcache.errors import ForbiddenError, UnauthenticatedError

READ, PUBLISH, ADMIN = "read", "publish", "admin"
SCOPES = (READ, PUBLISH, ADMIN)
ALL_NAMESPACES = "*"

_TOKEN = re.compile(r"aotc_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class Token:
    """A whole token. Its repr shows only the id."""

    id: str
    secret: str

    def __repr__(self) -> str:
        return f"Token({self.id})"

    @property
    def text(self) -> str:
        return f"aotc_{self.id}_{self.secret}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def fits(self, digest: str) -> bool:
        return hmac.compare_digest(self.digest, digest)


def new_token() -> Token:
    return Token(secrets.token_hex(6), secrets.token_urlsafe(32))


def parse_token(text: str) -> Token | None:
    found = _TOKEN.fullmatch(text.strip())
    return Token(found[1], found[2]) if found else None


def parse_authorization(header: str) -> Token | None:
    """The token of an Authorization header; None where it holds none of ours."""
    scheme, _, text = header.partition(" ")
    return parse_token(text) if scheme.lower() == "bearer" else None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. token: its id; empty where none is asked for. namespaces: None for all."""

    token: str = ""
    scope: str = ADMIN
    namespaces: frozenset[str] | None = None

    def may(self, scope: str, namespace: str) -> bool:
        return SCOPES.index(scope) <= SCOPES.index(self.scope) and (
            self.namespaces is None or namespace in self.namespaces
        )

    def require(self, scope: str, namespace: str) -> None:
        """Raises ForbiddenError, before anything is looked up."""
        if not self.may(scope, namespace):
            raise ForbiddenError(
                f"token {self.token} may not {scope} in namespace {namespace}: it is a token to "
                f"{self.scope}{self._where()}"
            )

    def require_all(self, scope: str) -> None:
        """As `require`, in every namespace."""
        if self.namespaces is not None or not self.may(scope, ""):
            raise ForbiddenError(
                f"token {self.token} is one to {self.scope}{self._where()}; this takes one of all "
                f"namespaces: `aotcache token create --scope {scope} --namespace '*'`"
            )

    def _where(self) -> str:
        return "" if self.namespaces is None else f" in {', '.join(sorted(self.namespaces))}"


def no_token(header: str) -> UnauthenticatedError:
    what = "its token is not one of this service" if header else "it has no token"
    return UnauthenticatedError(
        f"the request is refused: {what}. Name one in AOTCACHE_TOKEN or AOTCACHE_TOKEN_FILE; "
        "`aotcache token create` makes one where the service runs"
    )


def over(token_id: str, why: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"token {token_id} is {why}: ask the operator for a new one")
