"""Proxies of the environment: http by its whole URL, https through a tunnel."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from aotcache.errors import UnavailableError, UsageError
from aotcache.net.http import HttpClient
from support.raw import Connection, raw_server, serve_ok, tunnel
from support.tls import Authority, make_authority

LOGIN = b"Basic " + base64.b64encode(b"user:p@ss")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    made = make_authority(tmp_path / "ca")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    return made


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY"])
def test_https_goes_through_a_tunnel(
    variable: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[list[bytes]] = []

    def proxy(connection: Connection) -> None:
        heads.append(connection.head())
        tunnel(connection, heads[-1])

    served: list[list[bytes]] = []

    def serve(connection: Connection) -> None:
        while lines := connection.head():
            served.append(lines)
            connection.answer()

    with raw_server(serve, authority.server) as server, raw_server(proxy) as between:
        where = between.url.removeprefix("http://")
        monkeypatch.setenv(variable, f"http://user:p%40ss@{where}")
        client = HttpClient(server.url, "the-token")
        for _ in range(2):
            assert client.request_bytes("POST", "/x").data == b"ok"
        client.close()
    assert (server.connections, between.connections) == (1, 1)
    host = server.url.removeprefix("https://").encode()
    assert heads == [
        [b"CONNECT %b HTTP/1.1" % host, b"Host: " + host, b"Proxy-Authorization: " + LOGIN]
    ]
    # Each is told what is its business.
    assert served[0][0] == b"POST /x HTTP/1.1"
    assert not [line for line in served[0] if line.startswith(b"Proxy-")]
    assert b"Authorization: Bearer the-token" in served[0]


def test_a_proxy_that_passes_nothing_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def proxy(connection: Connection) -> None:
        connection.head()
        connection.answer(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")

    with raw_server(proxy) as between:
        where = between.url.removeprefix("http://")
        monkeypatch.setenv("https_proxy", f"http://user:hunter2@{where}")
        with pytest.raises(UnavailableError, match=f"proxy {where} answered 407") as caught:
            HttpClient("https://service.invalid", retries=0).request_bytes("GET", "/x")
    assert "hunter2" not in str(caught.value)
    assert between.connections == 1


def test_http_through_a_proxy_that_is_spoken_to_over_tls(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[list[bytes]] = []

    def proxy(connection: Connection) -> None:
        heads.append(connection.head())
        connection.answer()

    with raw_server(proxy, authority.server) as between:
        monkeypatch.setenv("http_proxy", between.url.replace("://", "://user:p%40ss@"))
        client = HttpClient("http://service.invalid:8750")
        assert client.request_bytes("GET", "/x").data == b"ok"
    assert heads[0][0] == b"GET http://service.invalid:8750/x HTTP/1.1"
    assert b"Host: service.invalid:8750" in heads[0]
    assert b"Proxy-Authorization: " + LOGIN in heads[0]


def test_tls_inside_tls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "https://user:hunter2@proxy.invalid")
    with pytest.raises(UsageError, match=r"https_proxy.*no_proxy") as caught:
        HttpClient("https://service.invalid")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "proxy", ["socks5://user:hunter2@host:1080", "http://", "http://user:hunter2@host:x"]
)
def test_what_is_no_proxy_for_us(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UsageError, match="http_proxy") as caught:
        HttpClient("http://service.invalid")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("exempt", ["127.0.0.1", "*", "other.example, 127.0.0.1"])
def test_no_proxy(exempt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://nowhere.invalid:1")
    monkeypatch.setenv("no_proxy", exempt)
    with raw_server(serve_ok) as server:
        assert HttpClient(server.url, retries=0).request_bytes("GET", "/x").data == b"ok"


def test_a_proxy_is_asked_again_on_the_same_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(serve_ok) as between:
        monkeypatch.setenv("http_proxy", between.url)
        client = HttpClient("http://service.invalid")
        for _ in range(3):
            assert client.request_bytes("GET", "/x").data == b"ok"
    assert between.connections == 1
