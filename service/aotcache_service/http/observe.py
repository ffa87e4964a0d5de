"""Around every request: an id that is in its answer and in each line of the log, its time, and a
line of its own where it changed something or was refused."""

from __future__ import annotations

import logging
import re
import time
from secrets import token_hex

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aotcache.protocol.names import REQUEST_ID

from .. import metrics
from ..logs import request_id
from .context import TOKEN, Context

log = logging.getLogger(__name__)

_HEADER = REQUEST_ID.lower().encode()
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_API = "/v1/"
_READS = frozenset(("GET", "HEAD"))
# They change nothing that somebody asks about later, and there are thousands a second.
_QUIET = frozenset(("/v1/lookup", "/v1/recipes/lookup", "/v1/presign", "/v1/leases"))
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))


class Observed:
    """calls: paths that are answered without FastAPI, which would name their route."""

    def __init__(self, app: ASGIApp, context: Context, calls: frozenset[str]) -> None:
        self._app = app
        self.context = context
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        asked = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        # Another's id is taken as it is, so that the lines of both sides are found together.
        own = asked if _ID.fullmatch(asked) else token_hex(8).encode()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (_HEADER, own)]
            await send(message)

        reset = request_id.set(own.decode())
        try:
            await self._app(scope, receive, sending)
        finally:
            self._note(scope, status, time.perf_counter() - begin)
            request_id.reset(reset)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope["path"] if scope["path"] in self._calls else _route(scope)
        # Both are labels: what anybody may make up must not be one.
        method = scope["method"] if scope["method"] in _METHODS else "other"
        metrics.REQUESTS.labels(method, route, status).inc()
        metrics.REQUEST_SECONDS.labels(method, route).observe(seconds)
        refused = status in {401, 403, 429} or status >= 500 or not status
        level = logging.WARNING if refused else logging.INFO
        if not refused and (method in _READS or route in _QUIET):
            level = logging.DEBUG
        if log.isEnabledFor(level):
            # As it came: what it is decoded to may hold the end of a line.
            path = scope.get("raw_path", b"").decode("latin-1")[:300]
            log.log(
                level,
                "%s %s: %s in %.3f s%s",
                method,
                path,
                status or "no answer",
                seconds,
                f", token {scope[TOKEN]}" if scope.get(TOKEN) else "",
                extra={
                    "method": method,
                    "path": path,
                    "status": status,
                    "seconds": round(seconds, 6),
                    "token": scope.get(TOKEN, ""),
                },
            )


def _route(scope: Scope) -> str:
    """The template of its path, of which there are few."""
    found = str(getattr(scope.get("route"), "path", "other"))
    # Some versions of FastAPI leave out what the router adds before it.
    inside = scope["path"].startswith(_API) and found.startswith("/") and not found.startswith(_API)
    return _API.rstrip("/") + found if inside else found
