"""Which URLs the service signs, and which not. Signing sends nothing: there is no S3 here."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient

from aotcache.errors import UsageError
from aotcache.protocol.names import MAX_OBJECT, TreeKey
from aotcache.protocol.v1.presign import MAX_URLS
from aotcache_service.http.app import create_app
from aotcache_service.index.publishing import open_session
from aotcache_service.settings import ServiceSettings
from support.azurite import AzureServer
from support.fake_gcs import GcsServer
from support.s3 import S3Server
from support.stored import HASH, PLATFORM

PUBLISH_ID = "9" * 32
SHA256 = "ab" * 32
PACK = f"default/packs/ab/{SHA256}-{PUBLISH_ID}"
TREE = TreeKey(namespace="default", layout="vllm-aot", hash=HASH, platform=PLATFORM.id)

Opened = Callable[..., Any]


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch) -> None:
    S3Server("http://127.0.0.1:9").use(monkeypatch)


@contextmanager
def running(folder: Path, storage_url: str = "s3://bucket/a/prefix", **more: Any) -> Iterator[Any]:
    told = ServiceSettings(data_dir=folder / "data", storage_url=storage_url, **more)
    with TestClient(create_app(told), "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def publish_opens(client: Any, seconds: int = 60) -> None:
    database = client.app.context.database
    with database.write() as db:
        now = database.now()
        open_session(db, PUBLISH_ID, TREE, now - 100, now + seconds)


def ask(client: Any, **asked: Any) -> Any:
    answer = client.post("/v1/presign", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_url_to_read(tmp_path: Path) -> None:
    with running(tmp_path, presign_seconds=77) as client:
        answer = ask(client, read=[PACK])
    assert (answer["seconds"], answer["write"]) == (77, [])
    (signed,) = answer["read"]
    parts = urlsplit(signed["url"])
    assert (parts.netloc, parts.path) == ("127.0.0.1:9", f"/bucket/a/prefix/{PACK}")
    query = parse_qs(parts.query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert (query["X-Amz-Expires"], query["X-Amz-SignedHeaders"]) == (["77"], ["host"])
    assert signed["headers"] == {}


def test_a_url_to_write_is_bound_to_the_bytes(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        publish_opens(client)
        (signed,) = ask(client, write=[{"key": PACK, "size": 1234}])["write"]
    checksum = base64.b64encode(bytes.fromhex(SHA256)).decode()
    assert signed["headers"] == {"x-amz-checksum-sha256": checksum, "If-None-Match": "*"}
    names = parse_qs(urlsplit(signed["url"]).query)["X-Amz-SignedHeaders"]
    assert names == ["content-length;host;if-none-match;x-amz-checksum-sha256"]


def test_order_is_kept(tmp_path: Path) -> None:
    keys = [f"default/packs/{n:02x}/{f'{n:02x}' * 32}-{PUBLISH_ID}" for n in range(5)]
    with running(tmp_path) as client:
        publish_opens(client)
        answer = ask(client, read=keys, write=[{"key": key, "size": 1} for key in keys])
    for signed in (answer["read"], answer["write"]):
        assert [urlsplit(one["url"]).path for one in signed] == [
            f"/bucket/a/prefix/{key}" for key in keys
        ]


@pytest.mark.parametrize("seconds", [None, -10, 60])
def test_only_an_open_publish_writes(tmp_path: Path, seconds: int | None) -> None:
    body = {"read": [PACK], "write": [{"key": PACK, "size": 1}]}
    with running(tmp_path) as client:
        if seconds is not None:
            publish_opens(client, seconds)
        answer = client.post("/v1/presign", json=body)
        elsewhere = client.post(
            "/v1/presign", json={"write": [{"key": "team" + PACK[7:], "size": 1}]}
        )
    assert answer.status_code == (200 if seconds == 60 else 410)
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (410, "session_expired")
    assert "X-Amz" not in elsewhere.text


@pytest.mark.parametrize(
    "key",
    [
        "",
        "default",
        f"/{PACK}",
        f"{PACK}/x",
        PACK.replace("/ab/", "/ac/"),
        PACK.replace("/ab/", "/../"),
        PACK.replace("packs", "trees"),
        f"x/{PACK}",
        f"default/trees/vllm-aot/{HASH}/{PLATFORM.id}/shared/00000001.manifest",
        f"default/marks/deleted/vllm-aot/{HASH}/{PLATFORM.id}/shared/00000001",
    ],
)
def test_nothing_but_packs(tmp_path: Path, key: str) -> None:
    with running(tmp_path) as client:
        publish_opens(client)
        for body in ({"read": [PACK, key]}, {"write": [{"key": key, "size": 1}]}):
            answer = client.post("/v1/presign", json=body)
            assert answer.status_code == 422, body
            assert "X-Amz" not in answer.text


@pytest.mark.parametrize("size", [0, -1, MAX_OBJECT + 1])
def test_sizes_that_no_pack_has(tmp_path: Path, size: int) -> None:
    with running(tmp_path) as client:
        publish_opens(client)
        answer = client.post("/v1/presign", json={"write": [{"key": PACK, "size": size}]})
    assert answer.status_code == 400


def test_a_call_is_bounded(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        answer = client.post("/v1/presign", json={"read": [PACK] * (MAX_URLS + 1)})
    assert (answer.status_code, answer.json()["code"]) == (400, "usage")


def test_where_nothing_is_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    GcsServer("http://127.0.0.1:9").use(monkeypatch)
    AzureServer("http://127.0.0.1:9").use(monkeypatch)
    nothing = {"read": [], "write": [], "seconds": 0}
    for storage_url in ("", "gs://bucket/a", "az://container/a"):
        with running(tmp_path, storage_url=storage_url) as client:
            assert ask(client, read=[PACK]) == nothing
    with running(tmp_path, presign_seconds=0) as client:
        assert ask(client, read=[PACK]) == nothing


def test_the_endpoint_of_the_nodes(tmp_path: Path) -> None:
    with running(tmp_path, s3_public_endpoint="https://s3.example.com:8443") as client:
        (signed,) = ask(client, read=[PACK])["read"]
    assert signed["url"].startswith(f"https://s3.example.com:8443/bucket/a/prefix/{PACK}?")
    with (
        pytest.raises(UsageError, match="no-url-at-all"),
        running(tmp_path, s3_public_endpoint="no-url-at-all"),
    ):
        pass


def test_addresses_and_regions_are_those_of_the_aws_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "aws-config"
    config.write_text("[default]\ns3 =\n    addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of+a/role=")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with running(tmp_path, storage_url="s3://bucket") as client:
        (signed,) = ask(client, read=[PACK])["read"]
    parts = urlsplit(signed["url"])
    assert (parts.netloc, parts.path) == ("bucket.s3.eu-north-1.amazonaws.com", f"/{PACK}")
    query = parse_qs(parts.query)
    assert "/eu-north-1/s3/" in query["X-Amz-Credential"][0]
    assert query["X-Amz-Security-Token"] == ["of+a/role="]


def test_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with running(tmp_path) as client:
        answer = client.post("/v1/presign", json={"read": [PACK]})
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    assert "credentials" in answer.json()["message"]
