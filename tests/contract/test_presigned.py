"""What a presigned URL is good for, and what for not: as two S3 servers see it."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from aotcache.errors import ObjectExistsError, SessionExpiredError, StorageUnavailableError
from aotcache.net.http import HttpClient
from aotcache.protocol.names import new_publish_id, pack_key
from aotcache.protocol.v1.presign import NewPack, Presign, Presigned, SignedUrl
from aotcache.storage import open_store, presigned_store, urls
from support.presign import open_publish, presigning
from support.s3 import S3Server

DATA = os.urandom(1000)


@pytest.fixture(params=["seaweedfs", "ministack"])
def s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    found.use(monkeypatch)
    return found


@pytest.fixture
def storage_url(s3: S3Server) -> str:
    return s3.fresh_url()


@pytest.fixture
def seconds() -> int:
    return 60


@pytest.fixture
def client(storage_url: str, seconds: int, tmp_path: Path) -> Iterator[HttpClient]:
    with presigning(tmp_path, storage_url, presign_seconds=seconds) as opened:
        yield opened


@pytest.fixture
def new_pack(client: HttpClient) -> Callable[..., str]:
    """The key of a pack of these bytes, under a publish id whose session is open."""
    publish_id = new_publish_id()
    open_publish(client, publish_id)
    return lambda data=DATA: pack_key("default", f"{hashlib.sha256(data).hexdigest()}-{publish_id}")


def to_read(client: HttpClient, key: str) -> SignedUrl:
    asked = Presign(read=(key,))
    return client.request_json("POST", "/v1/presign", asked, Presigned).read[0]


def to_write(client: HttpClient, key: str, size: int = len(DATA)) -> SignedUrl:
    asked = Presign(write=(NewPack(key=key, size=size),))
    return client.request_json("POST", "/v1/presign", asked, Presigned).write[0]


def put(signed: SignedUrl, data: bytes = DATA, **other: str) -> int:
    headers = {name.lower(): value for name, value in signed.headers.items()}
    return httpx2.put(signed.url, content=data, headers={**headers, **other}).status_code


def test_what_a_put_is_for(client: HttpClient, new_pack: Callable[..., str]) -> None:
    signed = to_write(client, new_pack())
    assert put(signed) == 200
    assert put(signed) == 412, "an object is never replaced"
    assert httpx2.get(to_read(client, new_pack()).url).content == DATA


def test_a_put_takes_no_other_bytes(
    client: HttpClient, new_pack: Callable[..., str], storage_url: str
) -> None:
    signed = to_write(client, new_pack())
    assert put(signed, os.urandom(len(DATA))) == 400, "not what the checksum says"
    other = os.urandom(len(DATA))
    checksum = to_write(client, new_pack(other)).headers["x-amz-checksum-sha256"]
    assert put(signed, other, **{"x-amz-checksum-sha256": checksum}) == 403
    assert put(signed, DATA + b"x") == 403
    assert put(signed, DATA[:-1]) == 403
    for left_out in signed.headers:
        rest = {name: value for name, value in signed.headers.items() if name != left_out}
        assert httpx2.put(signed.url, content=DATA, headers=rest).status_code == 403, left_out
    store = open_store(storage_url)
    assert list(store.list("")) == []
    store.close()


def test_a_url_is_for_one_object_and_one_method(
    client: HttpClient, new_pack: Callable[..., str], storage_url: str
) -> None:
    to_put, to_get = to_write(client, new_pack()), to_read(client, new_pack())
    assert put(to_put) == 200
    other = new_pack(b"other")
    for method, signed in [
        ("GET", to_put),
        ("DELETE", to_put),
        ("PUT", to_get),
        ("DELETE", to_get),
    ]:
        assert httpx2.request(method, signed.url).status_code == 403, method
    elsewhere = SignedUrl(url=to_put.url.replace(new_pack(), other), headers=to_put.headers)
    assert put(elsewhere) == 403
    assert httpx2.get(to_get.url.replace(new_pack(), other)).status_code == 403
    changed = to_get.url.replace("X-Amz-Expires=60", "X-Amz-Expires=600")
    assert changed != to_get.url
    assert httpx2.get(changed).status_code == 403
    store = open_store(storage_url)
    assert [found.key for found in store.list("")] == [new_pack()]
    store.close()


def test_without_an_open_session_the_publish_is_told_so(client: HttpClient) -> None:
    """And begins anew, where a storage that does not answer would end it."""
    key = pack_key("default", f"{hashlib.sha256(DATA).hexdigest()}-{new_publish_id()}")
    store = presigned_store(client, required=True)
    with pytest.raises(SessionExpiredError):
        store.put(key, DATA)
    store.close()


@pytest.mark.parametrize("seconds", [1])
def test_a_url_ends_soon(client: HttpClient, new_pack: Callable[..., str]) -> None:
    to_get, to_put = to_read(client, new_pack()), to_write(client, new_pack())
    time.sleep(2.1)
    assert httpx2.get(to_get.url).status_code == 403
    assert put(to_put) == 403


@pytest.mark.parametrize("seconds", [1])
@pytest.mark.parametrize("used", [0.75, 1000.0], ids=["asked-in-time", "refused-first"])
def test_a_url_that_ends_during_a_pull(
    client: HttpClient,
    new_pack: Callable[..., str],
    used: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With 1000 the node takes a URL for good that S3 does not: the clocks differ."""
    monkeypatch.setattr(urls, "_USED", used)
    store = presigned_store(client, required=True)
    store.put(new_pack(), DATA)
    for start in range(3):
        assert store.get_range(new_pack(), start, 500) == DATA[start:500]
        time.sleep(2.1)
    with pytest.raises(ObjectExistsError):
        store.put(new_pack(), DATA)
    store.close()


def test_no_url_is_told(
    client: HttpClient, new_pack: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither by the service nor by the node, both logging all there is, well or not."""
    caplog.set_level(logging.DEBUG)
    store = presigned_store(client, required=True)
    store.put(new_pack(), DATA)
    assert store.get(new_pack()) == DATA
    with pytest.raises(StorageUnavailableError, match=new_pack(b"other")) as damaged:
        store.put(new_pack(b"other"), b"rehto")
    signed = to_read(client, new_pack())
    text = caplog.text + repr(signed) + repr(store) + repr(vars(store))
    error: BaseException | None = damaged.value
    while error:
        text += repr(error) + str(error)
        error = error.__cause__ or error.__context__
    assert new_pack() in text, "what was asked for is logged"
    assert re.findall(r"X-Amz-\w+|Signature:|StringToSign", text) == []
    store.close()
