"""A server of which a test says every byte, and when it closes."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from urllib.parse import urlsplit

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Connection:
    """number: of those before it."""

    number: int
    socket: socket.socket
    file: BufferedReader

    def head(self) -> list[bytes]:
        """The lines of the next request; none when the client has closed."""
        lines: list[bytes] = []
        while (line := self.file.readline()) not in (b"\r\n", b""):
            lines.append(line.rstrip())
        return lines

    def answer(self, data: bytes = OK) -> None:
        self.socket.sendall(data)


@dataclass
class Raw:
    url: str
    connections: int = 0
    closed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released once for each connection that the server has closed."""


@contextmanager
def raw_server(
    serve: Callable[[Connection], None], tls: ssl.SSLContext | None = None
) -> Iterator[Raw]:
    """`serve` is called for each connection, in a thread; the connection is closed after it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        scheme = "https" if tls else "http"
        raw = Raw(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")
        accepting = threading.Thread(target=_accept, args=(listener, raw, serve, tls))
        accepting.start()
        try:
            yield raw
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(
    listener: socket.socket,
    raw: Raw,
    serve: Callable[[Connection], None],
    tls: ssl.SSLContext | None,
) -> None:
    def run(accepted: socket.socket, number: int) -> None:
        # The client goes away, or does not trust us: it is the one that says so.
        with suppress(OSError), accepted:
            spoken = tls.wrap_socket(accepted, server_side=True) if tls else accepted
            with spoken, spoken.makefile("rb") as file:
                serve(Connection(number, spoken, file))
        raw.closed.release()

    with suppress(OSError):  # the listener is closed
        while True:
            accepted, _ = listener.accept()
            accepted.settimeout(30)
            raw.connections += 1
            number = raw.connections - 1
            threading.Thread(target=run, args=(accepted, number), daemon=True).start()


def serve_ok(connection: Connection) -> None:
    """Two bytes to each request, for as long as the client likes."""
    while connection.head():
        connection.answer()


def tunnel(connection: Connection, head: list[bytes]) -> None:
    """What a proxy does about CONNECT: it passes everything on, either way."""
    where = urlsplit(f"//{head[0].split()[1].decode()}")
    assert where.hostname
    with socket.create_connection((where.hostname, where.port or 0)) as far:
        connection.answer(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=_copy, args=(far, connection.socket), daemon=True)
        back.start()
        _copy(connection.socket, far)
        back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
