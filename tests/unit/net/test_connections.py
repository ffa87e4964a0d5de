"""Connections that are kept: noticed when they are dead, never anybody else's, never in the way."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from aotcache.errors import AotcacheError, UnavailableError, UsageError
from aotcache.net import connections
from aotcache.net.connections import KEPT, origin
from aotcache.net.http import HttpClient
from aotcache.protocol.v1.problem import Problem
from support.http import Reply, serving
from support.process import free_ports
from support.raw import OK, Connection, raw_server, serve_ok
from support.tls import make_authority


def test_a_connection_serves_many_requests() -> None:
    with raw_server(serve_ok) as server:
        client = HttpClient(server.url)
        for method in ("GET", "POST", "PUT", "GET"):
            assert client.request_bytes(method, "/x", b"data"[:0]).data == b"ok"
        client.close()
    assert server.connections == 1


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
    ],
)
def test_a_connection_that_is_to_be_closed_is_not_kept(said: bytes) -> None:
    def serve(connection: Connection) -> None:
        connection.head()
        connection.answer(said)

    with raw_server(serve) as server:
        client = HttpClient(server.url, retries=0)
        for _ in range(2):
            assert client.request_bytes("POST", "/x").data == b"ok"
    assert server.connections == 2


def test_one_that_the_server_has_closed_costs_no_call() -> None:
    """Not even one that must not be sent twice: it is noticed before."""

    def serve(connection: Connection) -> None:
        connection.head()
        connection.answer()

    with raw_server(serve) as server:
        client = HttpClient(server.url, retries=0)
        for _ in range(3):
            assert client.request_bytes("POST", "/x").data == b"ok"
            assert server.closed.acquire(timeout=30)
    assert server.connections == 3


def closes_at_the_second_request(connection: Connection) -> None:
    connection.head()
    connection.answer()
    if connection.number == 0:
        connection.head()
    else:
        serve_ok(connection)


@pytest.mark.parametrize(
    ("method", "repeat", "comes"),
    [("GET", False, True), ("PUT", False, True), ("POST", True, True), ("POST", False, False)],
)
def test_one_that_closes_while_the_request_is_on_its_way(
    method: str, repeat: bool, comes: bool
) -> None:
    with raw_server(closes_at_the_second_request) as server:
        client = HttpClient(server.url, retries=0)
        assert client.send("GET", "/x").data == b"ok"
        if comes:
            assert client.send(method, "/x", b"", repeat=repeat).data == b"ok"
        else:
            with pytest.raises(UnavailableError, match="closed without an answer"):
                client.send(method, "/x", b"")
    assert server.connections == 1 + comes


def test_an_answer_that_broke_off_is_not_asked_for_on_the_quiet() -> None:
    """Only what was never begun is: the rest is one of the tries."""

    def serve(connection: Connection) -> None:
        connection.head()
        connection.answer()
        connection.head()
        connection.answer(OK[:-1])

    with raw_server(serve) as server:
        client = HttpClient(server.url, retries=0)
        client.send("GET", "/x")
        with pytest.raises(UnavailableError, match="ends after 1 of 2 bytes"):
            client.send("GET", "/x")
    assert server.connections == 1


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_what_comes_unasked_is_nobodys_answer(
    at_once: bool, secure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_authority(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.certificate))
    heard, said = threading.Event(), threading.Event()
    unasked = OK.replace(b"ok", b"no")

    def serve(connection: Connection) -> None:
        connection.head()
        connection.answer(OK + unasked if at_once else OK)
        if not at_once:
            assert heard.wait(30)
            connection.answer(unasked)
        said.set()
        serve_ok(connection)

    with raw_server(serve, authority.server if secure else None) as server:
        client = HttpClient(server.url)
        for number in range(3):
            assert client.send("GET", f"/{number}").data == b"ok"
            heard.set()
            assert said.wait(30)
            heard.clear()
            said.clear()
    assert server.connections == 3


@pytest.mark.parametrize(("method", "times"), [("GET", 4), ("PUT", 4), ("DELETE", 1), ("POST", 1)])
def test_how_often_a_server_that_hangs_up_is_asked(method: str, times: int) -> None:
    def serve(connection: Connection) -> None:
        connection.head()

    with raw_server(serve) as server, pytest.raises(UnavailableError, match="without an answer"):
        HttpClient(server.url).request_bytes(method, "/x")
    assert server.connections == times


def test_a_status_that_stays_is_the_answer() -> None:
    with serving(lambda _: Reply(503, b"busy")) as server:
        client = HttpClient(server.url, retries=2)
        assert client.send("GET", "/x").status == 503
        assert client.send("POST", "/x", b"", repeat=True).status == 503
        assert client.send("POST", "/x", b"").status == 503
    assert [request.method for request in server.requests] == [*["GET"] * 3, *["POST"] * 4]


def test_many_threads_get_their_own_answers() -> None:
    with serving(lambda request: Reply(200, request.body)) as server:
        client = HttpClient(server.url)

        def ask(number: int) -> bool:
            data = str(number).encode() * 1000
            return client.request_bytes("PUT", f"/{number}", data).data == data

        with ThreadPoolExecutor(KEPT + 8) as pool:
            assert all(pool.map(ask, range(400)))
        assert len(client._pool._kept) <= KEPT
        client.close()
    assert len(server.requests) == 400


FORK = """
import os, sys
from aotcache.net.http import HttpClient

client = HttpClient(sys.argv[1], retries=0)
ask = lambda: client.request_bytes("POST", f"/{os.getpid()}").data == b"ok"
assert ask()
child = os.fork()
assert all(ask() for _ in range(20))
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert ask()
"""


def test_a_forked_process_makes_its_own() -> None:
    asked: dict[int, set[str]] = {}
    requests: list[bytes] = []

    def serve(connection: Connection) -> None:
        while lines := connection.head():
            asked.setdefault(connection.number, set()).add(lines[0].split()[1].decode())
            requests.extend(line for line in lines if line.lower().startswith(b"x-request-id"))
            connection.answer()

    with raw_server(serve) as server:
        subprocess.run([sys.executable, "-c", FORK, server.url], check=True, timeout=60)
    assert [len(who) for who in asked.values()] == [1, 1]
    assert len(set(requests)) == len(requests) == 42


def test_a_prepared_connection_serves_the_first_request() -> None:
    with raw_server(serve_ok) as server:
        client = HttpClient(server.url, retries=0)
        client.prepare()
        client.prepare()
        assert client.request_bytes("POST", "/x").data == b"ok"
        client.prepare()  # there is one
        assert client.request_bytes("POST", "/x").data == b"ok"
        client.close()
    assert server.connections == 1


def test_a_prepared_connection_that_nobody_uses_is_closed() -> None:
    closed = threading.Event()

    def serve(connection: Connection) -> None:
        if not connection.head():
            closed.set()

    with raw_server(serve) as server:
        client = HttpClient(server.url)
        client.prepare()
        client.close()
        assert closed.wait(10)


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://no-such-host.invalid:{port}"])
def test_what_cannot_be_prepared_is_said_when_it_is_used(url: str) -> None:
    (port,) = free_ports(1)
    client = HttpClient(url.format(port=port), retries=0)
    client.prepare()
    with pytest.raises(UnavailableError, match="no answer"):
        client.request_bytes("GET", "/x")


def test_a_prepared_connection_that_the_server_closed_costs_no_call() -> None:
    def serve(connection: Connection) -> None:
        if connection.number:  # the first is closed at once
            serve_ok(connection)

    with raw_server(serve) as server:
        client = HttpClient(server.url)
        client.prepare()
        time.sleep(0.2)
        assert client.request_bytes("GET", "/x").data == b"ok"
        client.close()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_prepared_connection_on_which_the_server_said_something_is_left(method: str) -> None:
    """As who balances loads says 408, where nothing is asked for a while."""

    def serve(connection: Connection) -> None:
        if connection.number:
            serve_ok(connection)
        else:
            connection.answer(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

    with raw_server(serve) as server:
        client = HttpClient(server.url, retries=0)
        client.prepare()
        time.sleep(0.2)
        assert client.request_bytes(method, "/x").data == b"ok"
        client.close()


def test_a_prepared_connection_is_good_for_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_FRESH", 0.05)
    with raw_server(serve_ok) as server:
        client = HttpClient(server.url, retries=0)
        client.prepare()
        time.sleep(0.1)
        assert client.request_bytes("POST", "/x").data == b"ok"
        client.close()
    assert server.connections == 2


PREPARED_FORK = FORK.replace("assert ask()\nchild", "client.prepare()\nchild", 1)


def test_a_forked_process_leaves_what_was_prepared_to_its_parent() -> None:
    asked: dict[int, set[str]] = {}

    def serve(connection: Connection) -> None:
        while lines := connection.head():
            asked.setdefault(connection.number, set()).add(lines[0].split()[1].decode())
            connection.answer()

    assert PREPARED_FORK != FORK
    with raw_server(serve) as server:
        subprocess.run([sys.executable, "-c", PREPARED_FORK, server.url], check=True, timeout=60)
    assert sorted(len(who) for who in asked.values()) == [1, 1]


def test_an_early_answer_is_heard_although_the_body_was_not_read() -> None:
    """As a server answers that does not take so much, or not from us."""
    body = msgspec.json.encode(Problem(code="usage", message="too large"))

    def serve(connection: Connection) -> None:
        connection.head()
        head = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        connection.answer(head % len(body) + body)

    with raw_server(serve) as server:
        client = HttpClient(server.url)
        for method in ("PUT", "POST"):
            with pytest.raises(UsageError, match="too large"):
                client.request_bytes(method, "/x", bytes(16 << 20))
    assert server.connections == 2


def test_a_body_that_is_cut_off_without_an_answer_is_sent_again() -> None:
    sizes: list[int] = []

    def serve(connection: Connection) -> None:
        connection.head()
        if connection.number:
            sizes.append(len(connection.file.read(8 << 20)))
            connection.answer()

    with raw_server(serve) as server:
        client = HttpClient(server.url)
        assert client.request_bytes("PUT", "/x", memoryview(bytes(8 << 20))).data == b"ok"
    assert sizes == [8 << 20]


def test_a_large_answer_comes_whole() -> None:
    data = bytes(range(256)) * (32 << 12)
    with serving(lambda _: Reply(200, data)) as server:
        assert HttpClient(server.url).request_bytes("GET", "/x").data == data


def test_a_server_of_ipv6() -> None:
    heads: list[list[bytes]] = []
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")

    def serve() -> None:
        accepted, _ = listener.accept()
        with accepted, accepted.makefile("rb") as file:
            connection = Connection(0, accepted, file)
            heads.append(connection.head())
            connection.answer()

    with listener:
        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        assert HttpClient(f"http://[::1]:{port}").request_bytes("GET", "/x").data == b"ok"
        thread.join()
    assert f"Host: [::1]:{port}".encode() in heads[0]


@pytest.mark.parametrize(
    ("scheme", "host", "port", "named"),
    [
        ("http", "h", None, "h"),
        ("http", "h", 80, "h"),
        ("http", "h", 443, "h:443"),
        ("https", "h", 443, "h"),
        ("https", "::1", 8443, "[::1]:8443"),
        ("http", "bücher.example", None, "xn--bcher-kva.example"),
    ],
)
def test_the_name_of_a_server(scheme: str, host: str, port: int | None, named: str) -> None:
    assert str(origin(scheme, host, port)) == named


@pytest.mark.parametrize("url", ["http://a b/", "http://a\0b/", f"http://{'ü' * 70}.example/"])
def test_names_of_no_server(url: str) -> None:
    with pytest.raises(UsageError):
        HttpClient(url)


def test_a_path_is_sent_so_that_it_is_one() -> None:
    with serving(lambda _: Reply(200, b"")) as server:
        client = HttpClient(f"{server.url}/a b/")
        client.send("GET", "/ü\r\nX: y", query="signed=%2B+/&x")
    (request,) = server.requests
    assert request.path == "/a%20b/%C3%BC%0D%0AX:%20y?signed=%2B+/&x"
    assert "x" not in request.headers


def test_an_error_of_the_name_service() -> None:
    with pytest.raises(AotcacheError, match=r"nowhere\.invalid.*gaierror"):
        HttpClient("http://nowhere.invalid", retries=0).request_bytes("GET", "/x")
