"""HTTP/1.1 on one socket: a request goes out, an answer comes in.

The standard library's http.client would do as well, but imports ssl, and email to read the header:
a fifth of all the time that a command takes which finds nothing to do.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from io import BufferedReader

import msgspec

from aotcache.errors import UsageError
from aotcache.protocol.names import MAX_OBJECT

PIECE = 256 << 10  # bytes handed to the socket at a time: a timeout is one of a piece
# As in http.client.
_MAX_LINE = 65536
_MAX_HEADERS = 100
_STATUS = re.compile(rb"HTTP/1\.(\d) ([1-5]\d\d)(?: [^\r\n]*)?\r?\n")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,10})[ \t]*(?:;[^\r\n]*)?\r?\n")
_LENGTH = re.compile(r"\d{1,12}", re.ASCII)


class Received(msgspec.Struct, frozen=True):
    """headers: by name in lower case. reusable: the connection may carry another request."""

    status: int
    headers: dict[str, str]
    data: bytes
    reusable: bool


def request_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """Raises UsageError for what would be read as something else; a value is not quoted back, as it
    may be a secret."""
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in headers.items():
        line = f"{name}: {value}"
        if not (line.isascii() and line.isprintable()):
            raise UsageError(f"the header {name!a} cannot be sent: it is not printable ASCII")
        lines.append(line)
    return "\r\n".join([*lines, "", ""]).encode("ascii")


class Wire:
    """A connected socket, used by one thread at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.heard = False
        """Whether an answer to the last request began."""

    def exchange(self, method: str, head: bytes, body: bytes | memoryview) -> Received:
        """Raises OSError: a ConnectionError also for an answer that ends too early or cannot be
        read."""
        self.heard = False
        failure = self._send(head, memoryview(body))
        try:
            received = self._receive(method)
        except OSError:
            if failure is not None:
                raise failure from None
            raise
        return msgspec.structs.replace(received, reusable=False) if failure else received

    def _send(self, head: bytes, body: memoryview) -> OSError | None:
        """What kept the request from being sent whole: the server may have answered (that the body
        is too large, that the token is wrong) and closed."""
        try:
            if len(body) <= PIECE:
                self.socket.sendall(b"".join((head, body)))  # in one packet, if it is small
            else:
                self.socket.sendall(head)
                for start in range(0, len(body), PIECE):
                    self.socket.sendall(body[start : start + PIECE])
        except TimeoutError:
            raise
        except OSError as error:
            return error
        return None

    def _receive(self, method: str) -> Received:
        with self.socket.makefile("rb") as file:
            status, minor = 100, 1
            while status < 200:  # what is said before the answer
                minor, status = self._status(file)
                headers = _headers(file)
            words = {word.strip() for word in headers.get("connection", "").lower().split(",")}
            reusable = "close" not in words if minor else "keep-alive" in words
            coding = headers.get("transfer-encoding", "").lower()
            length = headers.get("content-length")
            if method in ("HEAD", "CONNECT") or status in (204, 304):
                data = b""
            elif coding == "chunked":
                data = _chunked(file)
            elif coding:
                raise ConnectionError(f"an answer in the transfer encoding {coding[:80]!a}")
            elif length is None:
                data, reusable = file.read(MAX_OBJECT + 1), False
                _refuse_large(len(data))
            elif _LENGTH.fullmatch(length):
                data = _exactly(file, int(length))
            else:
                raise ConnectionError(f"an answer of the length {length[:80]!a}")
            reusable = reusable and not self._says_more(file)
        return Received(status, headers, data, reusable)

    def _says_more(self, file: BufferedReader) -> bool:
        """Whether there is something behind the answer, which would be taken for the next one."""
        seconds = self.socket.gettimeout()
        self.socket.settimeout(0)
        try:
            return bool(file.peek(1))
        except OSError:  # TLS has nothing more to say
            return False
        finally:
            self.socket.settimeout(seconds)

    def _status(self, file: BufferedReader) -> tuple[int, int]:
        """Of HTTP/1.x the x, and the status."""
        line = _line(file)
        if not line:
            raise ConnectionResetError("closed without an answer")
        self.heard = True
        found = _STATUS.fullmatch(line)
        if found is None:
            raise ConnectionError("what answered does not speak HTTP/1.1")
        return int(found[1]), int(found[2])


def _line(file: BufferedReader) -> bytes:
    line = file.readline(_MAX_LINE + 1)
    if len(line) > _MAX_LINE:
        raise ConnectionError("an answer with a line of more than 64 KiB before its body")
    return line


def _headers(file: BufferedReader) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for _ in range(_MAX_HEADERS + 1):
        line = _line(file)
        if line in (b"\r\n", b"\n"):
            return found
        if not line.endswith(b"\n"):
            raise ConnectionError("the answer ends before its body")
        text = line.decode("latin-1")
        if text[0] in " \t" and name:  # the value before it goes on
            found[name] = f"{found[name]} {text.strip()}"
            continue
        name, colon, value = text.partition(":")
        if not colon:
            raise ConnectionError("an answer with a line that is no header")
        name, value = name.strip().lower(), value.strip()
        found[name] = f"{found[name]}, {value}" if name in found else value
    raise ConnectionError(f"an answer with more than {_MAX_HEADERS} headers")


def _refuse_large(size: int) -> None:
    """Before memory is taken for it."""
    if size > MAX_OBJECT:
        raise ConnectionError(f"an answer of {size} bytes or more: no more than 128 MiB are taken")


def _exactly(file: BufferedReader, size: int, before: int = 0) -> bytes:
    """Into one buffer, past the reader's own where it is large. before: what came already."""
    _refuse_large(before + size)
    data = file.read(size)
    if len(data) < size:
        raise ConnectionError(f"the answer ends after {len(data)} of {size} bytes")
    return data


def _chunked(file: BufferedReader) -> bytes:
    pieces: list[bytes] = []
    total = 0
    while True:
        found = _CHUNK.fullmatch(_line(file))
        if found is None:
            raise ConnectionError("the answer ends in a chunk, or has one that cannot be read")
        size = int(found[1], 16)
        if not size:
            _headers(file)
            return b"".join(pieces)
        pieces.append(_exactly(file, size, total))
        total += size
        if _line(file).strip():
            raise ConnectionError("an answer with a chunk that is longer than it says")
