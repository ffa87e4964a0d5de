"""https: certificates are checked against those that the environment names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aotcache.errors import UnavailableError, UsageError
from aotcache.net.http import HttpClient
from support.raw import Connection, Raw, raw_server, serve_ok
from support.tls import Authority, make_authority


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "ca")


@pytest.fixture
def server(authority: Authority) -> Iterator[Raw]:
    with raw_server(serve_ok, authority.server) as server:
        yield server


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_bundle(
    variable: str, authority: Authority, server: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(authority.certificate))
    client = HttpClient(server.url)
    for _ in range(3):
        assert client.request_bytes("POST", "/x").data == b"ok"
    # Tickets of a session that the server sends are no reason to leave the connection.
    assert server.connections == 1


def test_the_first_one_that_is_named_counts(
    authority: Authority, server: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.certificate))
    assert HttpClient(server.url).request_bytes("GET", "/x").data == b"ok"


def test_a_directory(
    authority: Authority, server: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    (tmp_path / "many").mkdir()
    shutil.copy(authority.certificate, tmp_path / "many")
    subprocess.run(["openssl", "rehash", tmp_path / "many"], check=True, capture_output=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "many"))
    assert HttpClient(server.url).request_bytes("GET", "/x").data == b"ok"


def test_a_server_that_nobody_here_trusts(server: Raw) -> None:
    with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        HttpClient(server.url, retries=0).request_bytes("GET", "/x")


def test_a_server_of_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = make_authority(tmp_path, "service.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    with raw_server(serve_ok, authority.server) as server:
        client = HttpClient(server.url, retries=0)
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1"):
            client.request_bytes("GET", "/x")


def test_what_is_not_a_bundle(server: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"REQUESTS_CA_BUNDLE=.*nowhere.*No such file"):
        HttpClient(server.url).request_bytes("GET", "/x")
    (tmp_path / "text").write_text("no certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "text"))
    with pytest.raises(UsageError, match=r"REQUESTS_CA_BUNDLE=.*text"):
        HttpClient(server.url).request_bytes("GET", "/x")


def test_large_bodies_both_ways(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    data = bytes(range(256)) * (32 << 10)

    def echo(connection: Connection) -> None:
        while connection.head():
            got = connection.file.read(len(data))
            connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(got) + got)

    with raw_server(echo, authority.server) as server:
        client = HttpClient(server.url)
        for _ in range(2):
            assert client.request_bytes("PUT", "/x", memoryview(data)).data == data
    assert server.connections == 1


def test_one_that_closes_while_the_request_is_on_its_way(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))

    def serve(connection: Connection) -> None:
        connection.head()
        connection.answer()
        connection.head()

    with raw_server(serve, authority.server) as server:
        client = HttpClient(server.url, retries=0)
        for _ in range(3):
            assert client.request_bytes("GET", "/x").data == b"ok"
    assert server.connections == 3


def test_http_imports_nothing_of_it() -> None:
    """Nor what http.client and urllib3 bring with them: it is much of a short command's time."""
    script = (
        "import sys\n"
        "from aotcache.net.http import HttpClient\n"
        "assert HttpClient(sys.argv[1]).request_bytes('GET', '/x').data == b'ok'\n"
        "heavy = {'ssl', 'urllib3', 'http', 'email', 'urllib.request', 'tempfile'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    environment = {n: v for n, v in os.environ.items() if not n.lower().endswith("_proxy")}
    with raw_server(serve_ok) as server:
        command = [sys.executable, "-c", script, server.url]
        subprocess.run(command, check=True, timeout=60, env=environment)
