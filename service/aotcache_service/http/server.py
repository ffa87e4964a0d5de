"""How uvicorn serves the app. Request lines and headers come before anybody knows whose they are,
and it bounds neither."""

from __future__ import annotations

import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aotcache.errors import UsageError
from aotcache.protocol.v1.problem import Problem

MAX_HEAD = 64 << 10  # bytes of a request before its body, and of what may come after that
MAX_PIPELINED = 16  # requests of a connection that wait for their turn: nodes send none

_BODY = msgspec.json.encode(
    Problem(
        code=UsageError.code,
        message=f"a request line and its headers have at most {MAX_HEAD >> 10} KiB",
    )
)
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
    % (len(_BODY), _BODY)
)

# Longer than most balancers keep a connection that nobody uses (60 s): one that is closed just when
# they send on it looks like a replica that failed.
KEEP_ALIVE_SECONDS = 75


def server_config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=BoundedHeads,
        ws="none",
        # uvloop takes as long for a lookup, and accepts one connection a turn: a fleet that
        # connects at once would wait for as many turns as it has nodes.
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=10,
    )


class BoundedHeads(HttpToolsProtocol):
    """Ends a connection with 431 once MAX_HEAD bytes came that are no body; of what comes at once,
    twice as many at most."""

    _head = 0  # bytes since the last end of a head, of a message, or piece of a body

    def data_received(self, data: bytes) -> None:
        # In pieces, as more than a head may come at once.
        for at in range(0, len(data), MAX_HEAD):
            piece = data[at : at + MAX_HEAD]
            self._head += len(piece)
            super().data_received(piece)
            if self._head > MAX_HEAD:
                self._refuse()
            if self.transport.is_closing():
                return

    def on_headers_complete(self) -> None:
        self._head = 0
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            raise ValueError("requests came faster than answers")  # uvicorn answers 400, and closes

    def on_body(self, body: bytes) -> None:
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head = 0
        super().on_message_complete()

    def _refuse(self) -> None:
        if self.transport.is_closing():
            return
        self.logger.warning("a request line or headers of more than %d bytes: refused", MAX_HEAD)
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_TOO_LARGE)
        self.transport.close()
