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
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from aotcache.errors import ForbiddenError, UnauthenticatedError, UsageError

from ...auth import Caller
from ...index import sign_ins
from ..context import TOKEN, Context, ContextDep, now

LIFETIME = 12 * 3600  # seconds that somebody stays signed in
_COOKIE = "aotcache_session"
_MAX_FORM = 64 << 10
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Visitor:
    """cookie: 256 random bits. secure: it goes over TLS only."""

    caller: Caller
    cookie: str
    secure: bool

    @property
    def form_key(self) -> str:
        """What a form of this visitor's pages holds."""
        return hmac.new(self.cookie.encode(), b"form", hashlib.sha256).hexdigest()

    def remember(self, answer: Response) -> None:
        # Lax: who follows a link to here is still signed in; a form from elsewhere is not.
        answer.set_cookie(
            _COOKIE,
            self.cookie,
            max_age=LIFETIME,
            httponly=True,
            secure=self.secure,
            samesite="lax",
        )

    @staticmethod
    def forget(answer: Response) -> None:
        answer.delete_cookie(_COOKIE)


def new_visitor(request: Request, caller: Caller) -> Visitor:
    return Visitor(caller, secrets.token_urlsafe(32), request.url.scheme == "https")


async def is_open(context: Context) -> bool:
    """Whether no token is asked for."""
    try:
        await context.callers.ask("")
    except UnauthenticatedError:
        return False
    return True


async def _visitor(request: Request, context: ContextDep) -> Visitor:
    cookie = request.cookies.get(_COOKIE, "")
    if await is_open(context):
        _require_local(request)
        new = new_visitor(request, Caller())
        return Visitor(new.caller, cookie or new.cookie, new.secure)
    found = await run_in_threadpool(_signed_in, context, cookie) if cookie else None
    if found is None:
        raise UnauthenticatedError("sign in with an admin token")
    request.scope[TOKEN] = found.token
    return Visitor(found, cookie, request.url.scheme == "https")


def _signed_in(context: Context, cookie: str) -> Caller | None:
    with context.database.read() as db:
        return sign_ins.signed_in(db, cookie, now())


def _require_local(request: Request) -> None:
    """Without tokens this service listens on loopback only; a name that leads there may be any
    website's, which would then be let in as a page of this service."""
    host = request.url.hostname or ""
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost" or host.endswith(".localhost")
    if not local:
        raise ForbiddenError(
            f"{host[:200]} is no name of this machine: open http://127.0.0.1, or make a token for "
            "the service (`aotcache token create`)"
        )


VisitorDep = Annotated[Visitor, Depends(_visitor)]


async def read_form(request: Request) -> dict[str, str]:
    """Of a page of this service. Raises ForbiddenError for one of another website's; UsageError."""
    _require_same_site(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise UsageError("a form is sent as its page sends it")
    body = await request.body()
    if len(body) > _MAX_FORM:
        raise UsageError(f"a form has at most {_MAX_FORM >> 10} KiB")
    try:
        return dict(parse_qsl(body.decode(), strict_parsing=bool(body), max_num_fields=100))
    except ValueError as error:
        raise UsageError(f"the form cannot be read: {error}") from error


def _require_same_site(request: Request) -> None:
    origin = request.headers.get("origin", "")
    same = not origin or urlsplit(origin).netloc == request.headers.get("host", "")
    if not same or request.headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
        raise ForbiddenError("the form comes from another website: nothing was done")


async def _form(request: Request, visitor: VisitorDep) -> Mapping[str, str]:
    form = await read_form(request)
    if not hmac.compare_digest(form.pop("key", "").encode(), visitor.form_key.encode()):
        raise ForbiddenError(
            "the form is not one of a page that was shown to you, or you signed in again since: "
            "nothing was done. Open the page again"
        )
    return form


FormDep = Annotated[Mapping[str, str], Depends(_form)]
