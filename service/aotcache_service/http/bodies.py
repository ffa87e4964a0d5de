"""Bodies of JSON: what is held of them in memory is bounded, answers are encoded by msgspec."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import msgspec
from fastapi import HTTPException, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aotcache.errors import AotcacheError

from ..auth import Caller
from .gather import Gather

MAX_JSON = 1 << 20
SMALL = 64 << 10
# An explanation holds all that an engine hashed; who waits for a lease keeps its body meanwhile.
_BOUNDS = {"/v1/explain": 8 << 20, "/v1/leases": SMALL, "/v1/leases/end": SMALL}
MAX_HELD = 64 << 20  # bytes of all larger bodies that are not answered yet
SILENT_SECONDS = 10
BODY_SECONDS = 60

_encoder = msgspec.json.Encoder()


def json_answer(body: Any, status: int = 200) -> Response:
    """body: a type of the protocol."""
    return Response(_encoder.encode(body), status_code=status, media_type="application/json")


def authorization(scope: Scope) -> str:
    """The header, empty where there is none."""
    found = (value for name, value in scope["headers"] if name == b"authorization")
    return str(next(found, b""), "latin-1")


def too_slow() -> HTTPException:
    return HTTPException(408, "the body stopped, or came too slowly")


class BoundedBodies:
    """413 for a body above its route's bound, announced or not; 408 for one that stops or takes too
    long. Of one above SMALL it is found out first who sends it; 503 while those that are not
    answered yet take more than MAX_HELD, or those of one token half of it. What is small costs
    hardly more than its connection. An object's PUT has bounds of its own."""

    def __init__(self, app: ASGIApp, callers: Gather[str, Caller]) -> None:
        self._app = app
        self._callers = callers
        self._held: Counter[str] = Counter()  # bytes, by token; empty: nobody's

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "PUT":
            await self._app(scope, receive, send)
            return
        bound = _BOUNDS.get(scope["path"], MAX_JSON)
        size, held, end = 0, 0, asyncio.get_running_loop().time() + BODY_SECONDS
        whole = False
        token: str | None = None

        async def bounded() -> Message:
            nonlocal size, held, whole, token
            if whole:  # what comes is that the client leaves
                return await receive()
            left = end - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(receive(), min(SILENT_SECONDS, left))
            except asyncio.TimeoutError as error:
                raise too_slow() from error
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if size > bound:
                raise HTTPException(413, f"a body has at most {bound >> 10} KiB here")
            if size > SMALL:
                if token is None:
                    token = await self._token(authorization(scope))
                self._held[token] += size - held
                held = size
                if self._held.total() > MAX_HELD or (token and self._held[token] > MAX_HELD // 2):
                    raise HTTPException(503, "too many large bodies at once: try again")
            return message

        try:
            await self._app(scope, bounded, send)
        finally:
            if token is not None:
                self._held[token] -= held
                if not self._held[token]:
                    del self._held[token]

    async def _token(self, header: str) -> str:
        try:
            return (await self._callers.ask(header)).token
        except AotcacheError as error:
            # FastAPI takes any other for a body that it cannot read.
            raise HTTPException(401) from error
