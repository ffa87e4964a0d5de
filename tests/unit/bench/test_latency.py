"""The proxy that makes a server lie further away."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bench
from support.process import free_ports, running


def everything(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@contextmanager
def echo() -> Iterator[int]:
    """A server that answers each connection with all that it got, when that ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(everything(connection))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_what_is_sent_arrives_whole_and_in_order(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    script = Path(bench.__file__).with_name("latency.py")
    sent = b"".join(b"%08d" % number for number in range(500_000))
    with echo() as target:
        command = [sys.executable, str(script), str(port), str(target), "2"]
        with (
            running(command, tmp_path / "log", lambda: listens(port)),
            socket.create_connection(("127.0.0.1", port)) as client,
        ):
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            got = everything(client)
    assert got == sent
