"""Who asks: the Authorization header of a request, and what its token may do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader
from sqlalchemy.orm import Session

from aotcache.errors import AotcacheError

from ..auth import Caller, no_token
from ..index import tokens
from .context import TOKEN, ContextDep
from .limits import RateLimit
from .local import require_local

_header = APIKeyHeader(
    name="Authorization",
    scheme_name="token",
    description="`Bearer aotc_…`: a token of `aotcache token create`. A service for which none was "
    "ever made asks for none.",
    auto_error=False,
)
AuthorizationDep = Annotated[str | None, Security(_header)]


class Gate:
    """Lets requests in. closed: nobody without a token, though there be none in the index; so it is
    for good once there was one, should the database be replaced by an empty one. clock: seconds, as
    tokens expire by."""

    def __init__(self, limit: RateLimit, clock: Callable[[], int], *, closed: bool) -> None:
        self._limit = limit
        self._clock = clock
        self._closed = closed

    def callers(self, db: Session, headers: Sequence[str]) -> list[Caller | Exception]:
        """For each Authorization header who asks, or why the request is refused."""
        found = tokens.callers(db, headers, self._clock())
        is_open = any(isinstance(one, Caller) and not one.token for one in found)
        if is_open and self._closed:
            return [no_token(header) for header in headers]
        self._closed = self._closed or (bool(found) and not is_open)
        return [self._limited(one) for one in found]

    def _limited(self, found: Caller | Exception) -> Caller | Exception:
        if isinstance(found, Caller):
            try:
                self._limit.take(found.token)
            except AotcacheError as error:
                return error
        return found


async def _caller(
    request: Request, context: ContextDep, authorization: AuthorizationDep = None
) -> Caller:
    found = await context.callers.ask(authorization or "")
    if not found.token:
        require_local(request)
    request.scope[TOKEN] = found.token
    return found


CallerDep = Annotated[Caller, Depends(_caller)]
