"""One request and one answer on a socket: what is read, what is refused, as http.client does."""

from __future__ import annotations

import http.client
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotcache.errors import UsageError
from aotcache.net import wire
from aotcache.net.wire import PIECE, Received, Wire, request_head

HEAD = request_head("GET", "/x", {"Host": "h"})
OK = b"HTTP/1.1 200 OK\r\n"


def hear(*said: bytes, method: str = "GET") -> Received:
    """What is made of an answer that comes in these pieces and then ends."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for piece in said:
            theirs.sendall(piece)
        theirs.shutdown(socket.SHUT_WR)
        return Wire(ours).exchange(method, HEAD, b"")


@pytest.mark.parametrize(
    ("said", "method", "data", "reusable"),
    [
        (OK + b"Content-Length: 3\r\n\r\nabc", "GET", b"abc", True),
        (OK + b"content-length:3\r\nConnection: Foo, Close\r\n\r\nabc", "GET", b"abc", False),
        (OK + b"Content-Length: 0\r\n\r\n", "GET", b"", True),
        (b"HTTP/1.1 200\nContent-Length: 1\n\na", "GET", b"a", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", "GET", b"a", False),
        (
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
            "GET",
            b"a",
            True,
        ),
        (OK + b"\r\nuntil it closes", "GET", b"until it closes", False),
        (OK + b"Content-Length: 10\r\n\r\n", "HEAD", b"", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", b"", True),
        (
            OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0A;x=y\r\n0123456789\r\n"
            b"0\r\nTrailer: t\r\n\r\n",
            "GET",
            b"abc0123456789",
            True,
        ),
        (
            OK + b"Transfer-Encoding: Chunked\r\nContent-Length: 1\r\n\r\n1\r\nz\r\n0\r\n\r\n",
            "GET",
            b"z",
            True,
        ),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
            + OK
            + b"Content-Length: 1\r\n\r\na",
            "PUT",
            b"a",
            True,
        ),
    ],
)
def test_answers(said: bytes, method: str, data: bytes, reusable: bool) -> None:
    got = hear(said, method=method)
    assert (got.data, got.reusable) == (data, reusable)
    assert hear(*(said[n : n + 1] for n in range(len(said))), method=method) == got


def test_headers() -> None:
    got = hear(
        b"HTTP/1.1 503 Busy: try again\r\nX-One:  1 \r\nx-two: a\r\nX-Two: b\r\n"
        b"X-Long: it\r\n\t goes on\r\nX-Latin: \xe9\r\nContent-Length: 0\r\n\r\n"
    )
    assert got.status == 503
    assert got.headers == {
        "x-one": "1",
        "x-two": "a, b",
        "x-long": "it goes on",
        "x-latin": "é",
        "content-length": "0",
    }


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        OK,
        OK + b"Content-Length: 1",
        OK + b"no header\r\n\r\n",
        OK + b" folded under nothing\r\n\r\n",
        OK + b"Content-Length: 4\r\n\r\nabc",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 1e3\r\n\r\n",
        OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        OK + b"Content-Length: 999999999999999999\r\n\r\n",
        OK + b"Content-Length: 999999999999\r\n\r\nabc",
        OK + b"Transfer-Encoding: gzip\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nab",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        OK + b"X: " + b"x" * 65536 + b"\r\n\r\n",
        OK + b"X: 1\r\n" * 101 + b"\r\n",
        b"x" * 70_000,
    ],
)
def test_what_is_no_answer(said: bytes) -> None:
    with pytest.raises(ConnectionError):
        hear(said)


def test_as_many_headers_and_as_long_ones_as_http_client_takes() -> None:
    lines = b"".join(b"X-%d: 1\r\n" % number for number in range(98))
    long = b"X: " + b"x" * (65536 - 5) + b"\r\n"
    assert len(hear(OK + lines + long + b"Content-Length: 0\r\n\r\n").headers) == 100


NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=9).map(lambda name: f"x-{name}")
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)


@given(
    status=st.sampled_from([200, 206, 204, 304, 404, 412, 503]),
    headers=st.dictionaries(NAMES, VALUES, max_size=5),
    chunks=st.lists(st.binary(min_size=1, max_size=300), max_size=4),
    framing=st.sampled_from(["length", "chunked", "close"]),
    method=st.sampled_from(["GET", "HEAD"]),
    cut=st.integers(0, 400),
)
def test_it_reads_what_http_client_reads(
    status: int,
    headers: dict[str, str],
    chunks: list[bytes],
    framing: str,
    method: str,
    cut: int,
) -> None:
    lines = [f"HTTP/1.1 {status} Reason", *(f"{name}: {value}" for name, value in headers.items())]
    body = b"".join(chunks)
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
    elif framing == "chunked" and status not in (204, 304):  # where http.client waits for a body
        lines.append("Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in [*chunks, b""])
    head = "\r\n".join([*lines, "", ""]).encode()
    said = head if method == "HEAD" or status in (204, 304) else head + body

    def theirs(part: bytes) -> tuple[int, dict[str, str], bytes]:
        ours, other = socket.socketpair()
        with ours, other:
            other.sendall(part)
            other.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(ours, method=method)
            answer.begin()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, named, answer.read()

    got = hear(said[:cut], said[cut:], method=method)
    assert (got.status, got.headers, got.data) == theirs(said)
    # What ends too early is an error for us wherever it is one for http.client.
    try:
        theirs(said[:cut])
    except (http.client.HTTPException, OSError):
        with pytest.raises(ConnectionError):
            hear(said[:cut], method=method)


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * PIECE + 7])
def test_a_body_is_sent_whole(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    ours, theirs = socket.socketpair()
    got = bytearray()

    def read() -> None:
        while len(got) < len(HEAD) + size:
            got.extend(theirs.recv(1 << 20))
        theirs.sendall(OK + b"Content-Length: 0\r\n\r\n")

    with ours, theirs:
        reader = threading.Thread(target=read)
        reader.start()
        assert Wire(ours).exchange("PUT", HEAD, memoryview(data)).status == 200
        reader.join()
    assert bytes(got) == HEAD + data


def test_a_small_request_is_one_packet() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.sendall(OK + b"Content-Length: 0\r\n\r\n")
        Wire(ours).exchange("POST", HEAD, b"body")
        assert theirs.recv(1 << 16) == HEAD + b"body"


def test_a_request_has_the_headers_that_it_is_given() -> None:
    head = request_head("GET", "/a?b=c", {"Host": "h:1", "X-Y": "z"})
    assert head == b"GET /a?b=c HTTP/1.1\r\nHost: h:1\r\nX-Y: z\r\n\r\n"


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\0b", "é", "a\tb"])
def test_a_header_cannot_hold_another_one(value: str) -> None:
    with pytest.raises(UsageError, match="X-Signed") as caught:
        request_head("GET", "/", {"X-Signed": value})
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        OK + b"Content-Length: 1001\r\n\r\n",
        OK + b"\r\n" + b"x" * 1001,
        OK + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1f4\r\n%b\r\n" % (b"x" * 500) * 2 + b"1\r\n",
    ],
)
def test_more_than_is_taken(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers may be anybody, and never stop."""
    monkeypatch.setattr(wire, "MAX_OBJECT", 1000)
    with pytest.raises(ConnectionError, match="bytes or more"):
        hear(said)
