"""A TCP relay in front of a server: it counts what passes, either way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Relay:
    url: str
    bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, more: int) -> None:
        with self.lock:
            self.bytes += more


@contextmanager
def relay_to(url: str) -> Iterator[Relay]:
    target = urlsplit(url)
    assert target.hostname
    assert target.port
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        relay = Relay(f"http://127.0.0.1:{listener.getsockname()[1]}")
        where = (target.hostname, target.port)
        accepting = threading.Thread(target=_accept, args=(listener, where, relay), daemon=True)
        accepting.start()
        try:
            yield relay
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(listener: socket.socket, where: tuple[str, int], relay: Relay) -> None:
    with suppress(OSError):  # the listener is closed
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(where)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(source, sink, relay), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket, relay: Relay) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            relay.count(len(data))
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
