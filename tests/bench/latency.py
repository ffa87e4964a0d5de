"""A TCP proxy that makes a server lie further away: `latency.py PORT TARGET_PORT ROUND_TRIP_MS`.

Every chunk is held back by half a round trip in each direction, and the first one of a connection
by a whole one more, as opening it takes one. Bandwidth is not limited. It costs CPU, of the cores
that client and server share: about as much for a byte as a fast client takes for it.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

_CHUNK = 1 << 18


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float, first: float
) -> None:
    """Sent by the clock, not by sleeping after each chunk: what follows closely, arrives so."""
    clock = asyncio.get_running_loop()
    not_before = clock.time() + first
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

    async def send() -> None:
        while True:
            due, chunk = await waiting.get()
            if (left := due - clock.time()) > 0:
                await asyncio.sleep(left)
            if not chunk:
                break
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def receive() -> None:
        chunk = b"first"
        while chunk:
            chunk = await reader.read(_CHUNK)
            await waiting.put((max(clock.time() + delay, not_before), chunk))

    await asyncio.gather(send(), receive())


def _handler(
    target: int, round_trip: float
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def handle(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", target, limit=_CHUNK)
        for writer in (back, to_server):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):  # a client that goes away is no news
            await asyncio.gather(
                _forward(client, to_server, round_trip / 2, round_trip * 1.5),
                _forward(server, back, round_trip / 2, 0),
            )
        to_server.close()
        back.close()

    return handle


async def main() -> None:
    port, target, milliseconds = (int(word) for word in sys.argv[1:])
    handler = _handler(target, milliseconds / 1000)
    server = await asyncio.start_server(handler, "127.0.0.1", port, limit=_CHUNK, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
