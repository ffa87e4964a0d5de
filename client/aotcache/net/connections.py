"""Connections to one server, kept for the next request."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from aotcache.net.wire import Received, Wire, request_head

if TYPE_CHECKING:
    from aotcache.net.proxies import Proxy

KEPT = 32  # connections that nobody uses at the moment
# Seconds for which a connection that was begun is good: who balances loads closes those on which
# nothing is asked, some after ten.
_FRESH = 4.0
_PORTS = {"http": 80, "https": 443}


class Origin(msgspec.Struct, frozen=True):
    """scheme: `http` or `https`. host: without brackets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        """As the header Host has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def origin(scheme: str, host: str, port: int | None) -> Origin:
    """Raises UnicodeError for a host that cannot be a name."""
    if not host.isascii():
        host = host.encode("idna").decode()
    return Origin(scheme, host, port or _PORTS[scheme])


class Pool:
    """Connections to `to`, through the proxy of the environment. Thread-safe, and a process that
    was forked makes its own. Seconds: until a connection is there; of silence after that."""

    def __init__(self, to: Origin, connect_seconds: float, read_seconds: float) -> None:
        self._to = to
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._proxy = _proxy_of(to)
        self._kept: list[Wire] = []
        self._prepared: list[tuple[float, socket.socket]] = []  # one at most, and since when
        self._process = os.getpid()

    def prepare(self) -> None:
        """Begin to connect, for a request that is about to come, and wait for nothing but the name:
        the way there and back passes while something else is done. What fails is said by the
        request."""
        self._disown()
        if self._kept or self._prepared:
            return
        to = self._proxy or self._to
        with suppress(OSError):
            found = socket.getaddrinfo(to.host.encode(), to.port, type=socket.SOCK_STREAM)
            family, kind, protocol, _, address = found[0]
            begun = socket.socket(family, kind, protocol)
            begun.setblocking(False)
            begun.connect_ex(address)
            self._prepared = [(time.monotonic(), begun)]

    def exchange(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | memoryview,
        *,
        repeatable: bool,
    ) -> Received:
        """One request and its answer. Raises OSError where there is none, and UsageError for what
        cannot be sent, or a proxy or certificates that cannot be used."""
        headers = {"Host": str(self._to), **headers}
        if self._proxy and self._to.scheme == "http":
            target = f"http://{self._to}{target}"
            if self._proxy.login:
                headers["Proxy-Authorization"] = self._proxy.login
        head = request_head(method, target, headers)
        kept = self._take()
        if kept is not None:
            try:
                return self._on(kept, method, head, body)
            except TimeoutError:
                raise
            except OSError:
                # The server may have closed it while the request was on its way.
                if kept.heard or not repeatable:
                    raise
        return self._on(self._connect(), method, head, body)

    def close(self) -> None:
        while self._kept:
            self._kept.pop().socket.close()
        while self._prepared:
            self._prepared.pop()[1].close()

    def _on(self, wire: Wire, method: str, head: bytes, body: bytes | memoryview) -> Received:
        kept = False
        try:
            received = wire.exchange(method, head, body)
            kept = received.reusable and len(self._kept) < KEPT
        finally:
            if not kept:
                wire.socket.close()
        if kept:
            self._kept.append(wire)
        return received

    def _take(self) -> Wire | None:
        self._disown()
        while True:
            try:
                wire = self._kept.pop()
            except IndexError:
                return None
            if not _is_readable(wire.socket):
                return wire
            wire.socket.close()

    def _disown(self) -> None:
        """Connections of the process that this one was forked from: what it sends and hears there
        would be mixed up with ours."""
        if self._process != os.getpid():
            self._kept, self._prepared, self._process = [], [], os.getpid()

    def _take_prepared(self) -> socket.socket | None:
        try:
            since, begun = self._prepared.pop()
        except IndexError:
            return None
        age = time.monotonic() - since
        poll = select.poll()
        poll.register(begun, select.POLLOUT)
        if (
            age < _FRESH
            and poll.poll(max(0.0, self._connect_seconds - age) * 1000)
            and not begun.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            and not _is_readable(begun)
        ):
            return begun
        begun.close()  # another of the server's addresses may answer
        return None

    def _connect(self) -> Wire:
        to = self._proxy or self._to
        connected = self._take_prepared()
        if connected is None:
            # As bytes: a text goes through a codec that is imported for it.
            address = (to.host.encode(), to.port)
            connected = socket.create_connection(address, self._connect_seconds)  # type: ignore[arg-type]
        try:
            connected.settimeout(self._connect_seconds)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._proxy and self._proxy.secure:
                connected = _secured(connected, self._proxy.host)
            if self._to.scheme == "https":
                if self._proxy:
                    _ask_through(connected, self._proxy, self._to)
                connected = _secured(connected, self._to.host)
            connected.settimeout(self._read_seconds)
        except BaseException:
            connected.close()
            raise
        return Wire(connected)


def _proxy_of(to: Origin) -> Proxy | None:
    named = f"{to.scheme}_proxy"
    if not any(name.lower() == named for name in os.environ):
        return None
    from aotcache.net.proxies import proxy_of

    return proxy_of(to.scheme, to.host)


def _is_readable(connected: socket.socket) -> bool:
    """Of a connection on which nothing was asked: the server has closed it, or says what nobody
    wants to know."""
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return bool(poll.poll(0))


def _secured(connected: socket.socket, host: str) -> socket.socket:
    from aotcache.net.tls import context

    return context().wrap_socket(connected, server_hostname=host)


def _ask_through(connected: socket.socket, proxy: Proxy, to: Origin) -> None:
    """Have the proxy pass on all that follows. Raises OSError where it does not."""
    host = f"[{to.host}]" if ":" in to.host else to.host
    target = f"{host}:{to.port}"
    headers = {"Host": target, **({"Proxy-Authorization": proxy.login} if proxy.login else {})}
    answered = Wire(connected).exchange("CONNECT", request_head("CONNECT", target, headers), b"")
    if not 200 <= answered.status < 300:
        raise ConnectionError(f"the proxy {proxy.host}:{proxy.port} answered {answered.status}")
