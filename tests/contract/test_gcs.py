"""Where Google's credentials may come from, each used on fake-gcs-server behind a relay that lets
nobody else pass."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from aotcache.errors import StorageUnavailableError, UsageError
from aotcache.storage import open_store
from support.fake_gcs import METADATA_TOKEN, GcsServer, service_account
from support.http import Reply, serving

KEY = "ns/packs/ab/one"


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "GCE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def works(server: GcsServer) -> None:
    url = server.fresh_url()
    store = open_store(url)
    store.put(KEY, b"data")
    assert [found.key for found in store.list("ns/")] == [KEY]
    store.close()
    assert open_store(url).get(KEY) == b"data"


@pytest.mark.parametrize("where", ["GOOGLE_APPLICATION_CREDENTIALS", "the home directory"])
def test_a_file(
    fake_gcs: GcsServer, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_BASE_URL", fake_gcs.endpoint)
    file = tmp_path / ".config/gcloud/application_default_credentials.json"
    if where == "GOOGLE_APPLICATION_CREDENTIALS":
        file = tmp_path / "key.json"
        monkeypatch.setenv(where, str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(service_account())
    works(fake_gcs)


def test_the_account_of_a_machine(fake_gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or of a pod: GKE gives it in the same way."""
    monkeypatch.setenv("GOOGLE_BASE_URL", fake_gcs.endpoint)
    given = {"access_token": METADATA_TOKEN, "expires_in": 3600, "token_type": "Bearer"}
    with serving(lambda _: Reply(200, json.dumps(given).encode())) as metadata:
        monkeypatch.setenv("GCE_METADATA_HOST", metadata.url.removeprefix("http://"))
        works(fake_gcs)
    assert metadata.requests[0].headers["metadata-flavor"] == "Google"


def test_a_machine_without_an_account(fake_gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_BASE_URL", fake_gcs.endpoint)
    with serving(lambda _: Reply(404, b"no account here")) as metadata:
        monkeypatch.setenv("GCE_METADATA_HOST", metadata.url.removeprefix("http://"))
        with pytest.raises(StorageUnavailableError, match=r"no Google credentials: .*gave none"):
            open_store(fake_gcs.fresh_url()).get(KEY)


def test_a_token_that_google_does_not_know(
    fake_gcs: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_BASE_URL", fake_gcs.endpoint)
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "token-canary-4711")
    with pytest.raises(StorageUnavailableError, match="401 AuthenticationRequired") as caught:
        open_store(fake_gcs.fresh_url()).get(KEY)
    assert "canary" not in str(caught.value)


def test_files_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "credentials.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    with pytest.raises(UsageError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        open_store("gs://bucket")
    file.write_text(json.dumps({"type": "external_account", "audience": "canary-4711"}))
    with pytest.raises(UsageError, match="unknown variant `external_account`") as caught:
        open_store("gs://bucket")
    assert "canary" not in str(caught.value)
