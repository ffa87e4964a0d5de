"""The short way to calls that every starting node makes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, get_type_hints

from anyio import fail_after
from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aotcache.errors import AotcacheError
from aotcache.protocol.decoding import decode_json

from . import bodies
from .context import Context
from .errors import answer_error

Call = Callable[[Any, Context, str], Awaitable[Response]]
_JSON = (b"content-type", b"application/json")


class ShortCut:
    """Middleware that hands bodies msgspec can decode straight to the endpoints of these paths:
    what FastAPI does around a call costs several times what the call does.

    Only what is known to be right goes this way. The rest, every wrong body included, goes to
    FastAPI, which has the same endpoint as a route: it describes the call and says what is wrong.

    calls: by path, endpoints `async (asked, context, authorization) -> Response` of POSTs.
    """

    def __init__(self, app: ASGIApp, context: Context, calls: Mapping[str, Call]) -> None:
        self._app = app
        self._context = context
        self._calls = {path: (get_type_hints(call)["asked"], call) for path, call in calls.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["path"] not in self._calls
            or scope["method"] != "POST"
            or _JSON not in scope["headers"]
        ):
            await self._app(scope, receive, send)
            return
        try:
            with fail_after(bodies.SILENT_SECONDS):
                first = await receive()
        except TimeoutError:
            refused = answer_error(Request(scope), bodies.too_slow())
            await refused(scope, receive, send)
            return
        kind, call = self._calls[scope["path"]]
        try:
            # A body so long that it comes in pieces is nobody's lookup.
            asked = decode_json(b"" if first.get("more_body") else first.get("body", b""), kind)
        except AotcacheError:
            await self._app(scope, _once_more(first, receive), send)
            return
        try:
            answer = await call(asked, self._context, bodies.authorization(scope))
        except Exception as error:
            answer = answer_error(Request(scope), error)
        await answer(scope, receive, send)


def _once_more(first: Message, receive: Receive) -> Receive:
    messages = iter((first,))

    async def again() -> Message:
        return next(messages, None) or await receive()

    return again
