"""Where Azure's credentials may come from, each used on Azurite. Who gives out tokens is a server
of the test's: Azurite looks at what a token says, and not at who signed it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from aotcache.errors import StorageUnavailableError
from aotcache.storage import open_store
from support.azurite import AzureServer, run_azurite
from support.http import Reply, serving
from support.raw import Connection, raw_server
from support.tls import Authority, make_authority

KEY = "ns/packs/ab/one"
TENANT = "ab1f708d-50f6-404c-a006-d71b2ac7a606"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    made = make_authority(tmp_path_factory.mktemp("authority"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(made.certificate))
        yield made


@pytest.fixture(scope="module")
def azurite_with_tokens(authority: Authority) -> Iterator[AzureServer]:
    with run_azurite(authority) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)


def reach(server: AzureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.use(monkeypatch)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")


def works(server: AzureServer) -> None:
    url = server.fresh_url()
    store = open_store(url)
    store.put(KEY, b"data")
    assert [found.key for found in store.list("ns/")] == [KEY]
    store.close()
    assert open_store(url).get(KEY) == b"data"


def token() -> str:
    now = int(time.time())
    claims = {
        "aud": "https://storage.azure.com",
        "iss": f"https://sts.windows.net/{TENANT}/",
        "iat": now,
        "nbf": now - 60,
        "exp": now + 3600,
    }
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims)]
    parts.append(b"signed by nobody")
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def entra(asked: list[bytes]) -> Callable[[Connection], None]:
    given = json.dumps({"access_token": token(), "token_type": "Bearer", "expires_in": 3600})

    def answer(connection: Connection) -> None:
        while head := connection.head():
            lengths = [line for line in head if line.lower().startswith(b"content-length:")]
            asked.append(connection.file.read(int(lengths[0].split(b":")[1])))
            line = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(given)
            connection.answer(line + given.encode())

    return answer


def shared_access(server: AzureServer, key: str) -> str:
    """A signature for all of the account's blobs, as the portal gives it."""
    said = {"sv": "2020-12-06", "ss": "b", "srt": "co", "sp": "rwdlc", "se": "2099-01-01T00:00:00Z"}
    names = ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv", "ses"]
    signed = "\n".join([server.account, *(said.get(name, "") for name in names), ""])
    digest = hmac.digest(base64.b64decode(key), signed.encode(), hashlib.sha256)
    return urlencode({**said, "sig": base64.b64encode(digest).decode()})


def test_a_shared_access_signature(azurite: AzureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reach(azurite, monkeypatch)
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", shared_access(azurite, azurite.key))
    works(azurite)


def test_a_wrong_signature(azurite: AzureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reach(azurite, monkeypatch)
    wrong = shared_access(azurite, base64.b64encode(b"another").decode())
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", wrong)
    with pytest.raises(StorageUnavailableError, match="403 AuthorizationFailure") as caught:
        open_store(azurite.fresh_url()).get(KEY)
    assert "sig=" not in str(caught.value)


def test_workload_identity(
    azurite_with_tokens: AzureServer,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As AKS gives it to the service account of a pod: Entra changes its token for another."""
    reach(azurite_with_tokens, monkeypatch)
    file = tmp_path / "token"
    file.write_text("token-of-the-account")
    asked: list[bytes] = []
    with raw_server(entra(asked), authority.server) as server:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", server.url)
        monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
        monkeypatch.setenv("AZURE_CLIENT_ID", "client")
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(file))
        works(azurite_with_tokens)
    assert asked
    assert all(b"client_assertion=token-of-the-account" in body for body in asked)


def test_a_service_principal(
    azurite_with_tokens: AzureServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(azurite_with_tokens, monkeypatch)
    asked: list[bytes] = []
    with raw_server(entra(asked), authority.server) as server:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", server.url)
        monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
        monkeypatch.setenv("AZURE_CLIENT_ID", "client")
        monkeypatch.setenv("AZURE_CLIENT_SECRET", "secret-of-the-client")
        works(azurite_with_tokens)
    assert all(b"client_secret=secret-of-the-client" in body for body in asked)


def test_the_identity_of_a_machine(
    azurite_with_tokens: AzureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(azurite_with_tokens, monkeypatch)
    given = {"access_token": token(), "token_type": "Bearer", "expires_on": "4070908800"}
    with serving(lambda _: Reply(200, json.dumps(given).encode())) as metadata:
        monkeypatch.setenv("AZURE_MSI_ENDPOINT", f"{metadata.url}/metadata/identity/oauth2/token")
        works(azurite_with_tokens)
    assert "resource=https%3A%2F%2Fstorage.azure.com" in metadata.requests[0].path


def test_a_machine_without_an_identity(
    azurite: AzureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(azurite, monkeypatch)
    said = {"error": "invalid_request", "error_description": "Identity not found"}
    with serving(lambda _: Reply(400, json.dumps(said).encode())) as metadata:
        monkeypatch.setenv("AZURE_MSI_ENDPOINT", metadata.url)
        with pytest.raises(
            StorageUnavailableError, match=r"no Azure credentials: .*400 Identity not found"
        ):
            open_store(azurite.fresh_url()).get(KEY)
