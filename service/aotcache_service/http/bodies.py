"""Bodies of JSON: what is held of them in memory is bounded, answers are encoded by msgspec."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from fastapi import HTTPException, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON = 8 << 20
MAX_HELD = 256 << 20  # bytes of all bodies that are not answered yet
SILENT_SECONDS = 10
BODY_SECONDS = 60

_encoder = msgspec.json.Encoder()


def json_answer(body: Any, status: int = 200) -> Response:
    """body: a type of the protocol."""
    return Response(_encoder.encode(body), status_code=status, media_type="application/json")


def too_slow() -> HTTPException:
    return HTTPException(408, "the body stopped, or came too slowly")


class BoundedBodies:
    """413 for a body above the bound, announced or not; 408 for one that stops or takes too long;
    503 while all that are held take more than MAX_HELD, as who asks is only known behind them. An
    object's PUT has bounds of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "PUT":
            await self._app(scope, receive, send)
            return
        size, end = 0, asyncio.get_running_loop().time() + BODY_SECONDS
        whole = False

        async def bounded() -> Message:
            nonlocal size, whole
            if whole:  # what comes is that the client leaves
                return await receive()
            left = end - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(receive(), min(SILENT_SECONDS, left))
            except asyncio.TimeoutError as error:
                raise too_slow() from error
            got = len(message.get("body", b""))
            size, self._held = size + got, self._held + got
            whole = not message.get("more_body", False)
            if size > MAX_JSON:
                raise HTTPException(413, f"a body of JSON has at most {MAX_JSON >> 20} MiB")
            if self._held > MAX_HELD:
                raise HTTPException(503, "too many large bodies at once: try again")
            return message

        try:
            await self._app(scope, bounded, send)
        finally:
            self._held -= size
