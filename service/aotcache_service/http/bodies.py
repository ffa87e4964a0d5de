"""Bodies of JSON: what is held of them in memory is bounded, answers are encoded by msgspec."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import HTTPException, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON = 8 << 20

_encoder = msgspec.json.Encoder()


def json_answer(body: Any, status: int = 200) -> Response:
    """body: a type of the protocol."""
    return Response(_encoder.encode(body), status_code=status, media_type="application/json")


class BoundedBodies:
    """413 for a body above the bound, announced or not. An object's PUT has a bound of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "PUT":
            await self._app(scope, receive, send)
            return
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_JSON:
                raise HTTPException(413, f"a body of JSON has at most {MAX_JSON >> 20} MiB")
            return message

        await self._app(scope, bounded, send)
