"""Who looks at the pages: whoever signed in with an admin token, by a cookie; anybody on this
machine, where none was ever made.

What changes something is a form that holds a value only this cookie's pages know, and comes from a
page of this service.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from aotcache.errors import ForbiddenError, UnauthenticatedError, UsageError

from ...auth import Caller
from ...index import sign_ins
from ..context import TOKEN, Context, ContextDep
from ..local import require_local, require_same_site

LIFETIME = 12 * 3600  # seconds that somebody stays signed in
_COOKIE = "aotcache_session"
_MAX_FORM = 64 << 10
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Visitor:
    """cookie: 256 random bits. fresh: the browser does not have it yet."""

    caller: Caller
    cookie: str
    fresh: bool = False

    @property
    def form_key(self) -> str:
        """What a form of this visitor's pages holds."""
        return hmac.new(self.cookie.encode(), b"form", hashlib.sha256).hexdigest()

    def remember(self, request: Request, answer: Response) -> None:
        """Only once: what asks later may not show that TLS is spoken before this service."""
        # Lax: who follows a link to here is still signed in; a form from elsewhere is not.
        answer.set_cookie(
            _COOKIE,
            self.cookie,
            max_age=LIFETIME,
            httponly=True,
            secure=_over_tls(request),
            samesite="lax",
        )

    @staticmethod
    def forget(answer: Response) -> None:
        answer.delete_cookie(_COOKIE)


def new_visitor(caller: Caller) -> Visitor:
    return Visitor(caller, secrets.token_urlsafe(32), fresh=True)


def _over_tls(request: Request) -> bool:
    """Also where something before this service ends it; who claims so has a stricter cookie."""
    forwarded = request.headers.get("x-forwarded-proto", "")
    origin = request.headers.get("origin", "")
    return request.url.scheme == "https" or forwarded == "https" or origin.startswith("https:")


async def is_open(context: Context) -> bool:
    """Whether no token is asked for."""
    try:
        await context.callers.ask("")
    except UnauthenticatedError:
        return False
    return True


async def _visitor(request: Request, context: ContextDep) -> Visitor:
    # Also for the page that says what went wrong.
    request.state.visitor = found = await _who(request, context)
    return found


async def _who(request: Request, context: Context) -> Visitor:
    cookie = request.cookies.get(_COOKIE, "")
    if await is_open(context):
        require_local(request)
        return Visitor(Caller(), cookie) if cookie else new_visitor(Caller())
    found = await run_in_threadpool(_signed_in, context, cookie) if cookie else None
    if found is None:
        raise UnauthenticatedError("sign in with an admin token")
    request.scope[TOKEN] = found.token
    return Visitor(found, cookie)


def _signed_in(context: Context, cookie: str) -> Caller | None:
    with context.database.read() as db:
        return sign_ins.signed_in(db, cookie, context.database.now())


VisitorDep = Annotated[Visitor, Depends(_visitor)]


async def read_form(request: Request) -> dict[str, str]:
    """Of a page of this service. Raises ForbiddenError for one of another website's; UsageError."""
    require_same_site(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise UsageError("a form is sent as its page sends it")
    body = await request.body()
    if len(body) > _MAX_FORM:
        raise UsageError(f"a form has at most {_MAX_FORM >> 10} KiB")
    try:
        return dict(parse_qsl(body.decode(), strict_parsing=bool(body), max_num_fields=100))
    except ValueError as error:
        raise UsageError(f"the form cannot be read: {error}") from error


async def _form(request: Request, visitor: VisitorDep) -> Mapping[str, str]:
    form = await read_form(request)
    if not hmac.compare_digest(form.pop("key", "").encode(), visitor.form_key.encode()):
        raise ForbiddenError(
            "the form is not one of a page that was shown to you, or you signed in again since: "
            "nothing was done. Open the page again"
        )
    return form


FormDep = Annotated[Mapping[str, str], Depends(_form)]
