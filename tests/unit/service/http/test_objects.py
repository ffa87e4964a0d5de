from __future__ import annotations

import hashlib
import os
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict

import httpx2
import msgspec
import pytest
from fastapi.testclient import TestClient

from aotcache.protocol.names import new_publish_id, pack_key
from aotcache.storage import open_store
from aotcache_service.http.context import UPLOADS, Context
from aotcache_service.http.v1 import objects
from aotcache_service.index.write import hide_generations
from aotcache_service.settings import ServiceSettings
from support.service import run_service
from support.stored import key_of, make_manifest, manifest_bytes, put_part

BODY = bytes(range(256)) * 10


def pack_of(content: bytes) -> str:
    return pack_key("default", f"{hashlib.sha256(content).hexdigest()}-{new_publish_id()}")


UPLOAD = (
    f"PUT /v1/objects/{pack_of(BODY)} HTTP/1.1\r\nHost: localhost\r\n"
    f"Content-Length: {len(BODY)}\r\n\r\n"
).encode()


def put(client: TestClient, content: bytes = BODY) -> str:
    key = pack_of(content)
    assert client.put(f"/v1/objects/{key}", content=content).status_code == 204
    return key


def test_put_and_get(client: TestClient) -> None:
    key = put(client)
    answer = client.get(f"/v1/objects/{key}")
    assert (answer.status_code, answer.content) == (200, BODY)
    head = client.head(f"/v1/objects/{key}")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "2560", b"")
    again = client.put(f"/v1/objects/{key}", content=BODY)
    assert (again.status_code, again.json()["code"]) == (409, "object_exists")
    empty = put(client, b"")
    assert client.get(f"/v1/objects/{empty}").content == b""


@pytest.mark.parametrize(
    ("wanted", "status", "start", "end"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=10-19", 206, 10, 20),
        ("bytes=2550-", 206, 2550, 2560),
        ("bytes=2550-99999", 206, 2550, 2560),
        ("bytes=2560-2560", 416, 0, 0),
        ("bytes=5-4", 416, 0, 0),
        ("bytes=0-1,5-6", 200, 0, 2560),
        ("bytes=-5", 200, 0, 2560),
        ("lines=0-1", 200, 0, 2560),
    ],
)
def test_ranges(client: TestClient, wanted: str, status: int, start: int, end: int) -> None:
    answer = client.get(f"/v1/objects/{put(client)}", headers={"Range": wanted})
    assert answer.status_code == status
    if status == 416:
        assert answer.headers["content-range"] == "bytes */2560"
        assert answer.json()["code"] == "usage"
        return
    assert answer.content == BODY[start:end]
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/2560"


def test_large_objects_come_in_pieces(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PIECE", 1000)
    key = put(client)
    assert client.get(f"/v1/objects/{key}").content == BODY
    part = client.get(f"/v1/objects/{key}", headers={"Range": "bytes=500-2099"})
    assert part.content == BODY[500:2100]


def test_list(client: TestClient) -> None:
    keys = sorted(put(client, bytes([number])) for number in range(5))
    seen, after = [], ""
    while True:
        found = client.get("/v1/objects", params={"prefix": "default/", "after": after, "limit": 2})
        seen += [(one["key"], one["size"]) for one in found.json()["objects"]]
        if not (after := found.json()["after"]):
            break
    assert seen == [(key, 1) for key in keys]
    assert len(client.get("/v1/objects").json()["objects"]) == 5
    assert client.get("/v1/objects", params={"prefix": "team/"}).json()["objects"] == []


def test_manifest_must_be_about_its_key(client: TestClient) -> None:
    statement, locations = make_manifest()
    data = manifest_bytes(statement, locations)
    elsewhere = key_of(statement).replace("shared", "rank_0_0-d0")
    refused = client.put(f"/v1/objects/{elsewhere}", content=data)
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_manifest")
    assert client.put(f"/v1/objects/{key_of(statement)}", content=data).status_code == 204
    assert client.get(f"/v1/objects/{key_of(statement)}").content == data


def test_generations_are_put_one_by_one(client: TestClient, context: Context) -> None:
    """Who puts the last there can be would end the part for ever."""
    for generation, status in ((99_999_999, 409), (2, 409), (1, 204)):
        statement, locations = make_manifest(generation=generation)
        data = manifest_bytes(statement, locations)
        answer = client.put(f"/v1/objects/{key_of(statement)}", content=data)
        assert answer.status_code == status, answer.text
        assert status == 204 or answer.json()["code"] == "generation_taken"
    # Also above what is deleted, and where the index is older than its storage.
    with context.database.write() as db:
        hide_generations(db, statement.tree, {"shared": 7})
    put_part(context.store, generation=8)
    for generation, code in ((9, "generation_taken"), (8, "object_exists"), (3, None)):
        statement, locations = make_manifest(generation=generation)
        data = manifest_bytes(statement, locations)
        answer = client.put(f"/v1/objects/{key_of(statement)}", content=data)
        assert (answer.json()["code"] if answer.content else None) == code


def test_what_a_manifest_says_is_bounded(client: TestClient) -> None:
    statement, locations = make_manifest()
    for wrong in (
        {"expected_parts": ("shared",) * 100_000},
        {"hash_factors": {str(number): "x" * 4000 for number in range(1000)}},
        {"notes": {"x": "x" * 10_000}},
        {"publisher": "two\nlines"},
    ):
        data = manifest_bytes(msgspec.structs.replace(statement, **wrong), locations)
        refused = client.put(f"/v1/objects/{key_of(statement)}", content=data)
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_manifest")
    assert client.get("/v1/objects").json()["objects"] == []


def test_length_is_required_and_bounded(client: TestClient) -> None:
    key = pack_of(BODY)
    chunked = client.put(f"/v1/objects/{key}", content=iter([BODY]))
    assert (chunked.status_code, chunked.json()["code"]) == (411, "usage")
    large = client.put(
        f"/v1/objects/{key}", content=b"", headers={"Content-Length": str(objects.MAX_OBJECT + 1)}
    )
    assert (large.status_code, large.json()["code"]) == (413, "usage")
    assert client.get("/v1/objects").json()["objects"] == []


def test_interrupted_put_stores_nothing(settings: ServiceSettings) -> None:
    with run_service(settings) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as sent:
            sent.sendall(UPLOAD + BODY[:-1])
    # The service has ended, so it is done with that request too.
    store = open_store(settings.storage_url)
    assert list(store.list("")) == []
    store.close()


def test_delete_only_what_the_index_does_not_know(client: TestClient, context: Context) -> None:
    statement, locations = make_manifest(b"content")
    key, pack = key_of(statement), pack_key("default", locations.packs[0].name)
    client.put(f"/v1/objects/{pack}", content=b"content")
    client.put(f"/v1/objects/{key}", content=manifest_bytes(statement, locations))
    body = {
        "publish_id": statement.publish_id,
        "layout": statement.layout,
        "hash": statement.hash,
        "platform": asdict(statement.platform),
        "parts": ["shared"],
    }
    assert client.post("/v1/publish", json=body).status_code == 200
    path = f"/v1/publish/{statement.publish_id}/commit"
    assert client.post(path, json={"manifests": [key]}).json() == {"manifests": [key]}
    for known in (key, pack):
        refused = client.delete(f"/v1/objects/{known}")
        assert (refused.status_code, refused.json()["code"]) == (409, "usage")
    assert context.store.size(pack) == 7
    unknown = put(client)
    for _ in range(2):
        assert client.delete(f"/v1/objects/{unknown}").status_code == 204
    assert client.get(f"/v1/objects/{unknown}").status_code == 404


def test_many_uploads_at_once(settings: ServiceSettings) -> None:
    """More than are held in memory at a time: the rest waits and comes through."""
    bodies = [os.urandom(300_000) for _ in range(20)]
    with run_service(settings) as url, httpx2.Client(base_url=url, timeout=60) as client:

        def send(body: bytes) -> int:
            return client.put(f"/v1/objects/{pack_of(body)}", content=body).status_code

        with ThreadPoolExecutor(20) as pool:
            assert set(pool.map(send, bodies)) == {204}
        assert len(client.get("/v1/objects").json()["objects"]) == 20


def test_a_body_that_stops_is_given_up(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends nothing keeps no place from others."""
    monkeypatch.setattr(objects, "SILENT_SECONDS", 0.2)
    with run_service(settings) as url:
        host, port = url.removeprefix("http://").split(":")
        silent = [socket.create_connection((host, int(port)), timeout=30) for _ in range(UPLOADS)]
        try:
            for one in silent:
                one.sendall(UPLOAD + BODY[:3])
            answer = httpx2.put(f"{url}/v1/objects/{pack_of(b'x')}", content=b"x", timeout=30)
            assert answer.status_code == 204
            for one in silent:
                assert one.recv(4096).startswith(b"HTTP/1.1 408 ")
        finally:
            for one in silent:
                one.close()


def test_uploads_leave_room_on_the_disk(
    client: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = context.settings.storage_directory
    assert directory is not None
    put(client)  # from now on there is one
    total = 100 << 30
    for free, status in ((objects.RESERVE + 10, 503), (objects.RESERVE + (1 << 20), 204)):
        found = shutil._ntuple_diskusage(total, total - free, free)  # type: ignore[attr-defined]
        monkeypatch.setattr(objects.shutil, "disk_usage", lambda _, found=found: found)
        body = os.urandom(1000)
        answer = client.put(f"/v1/objects/{pack_of(body)}", content=body)
        assert answer.status_code == status, answer.text


def test_a_body_that_trickles_is_given_up(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then keeps no place either."""
    monkeypatch.setattr(objects, "UPLOAD_SECONDS", 0.6)
    with run_service(settings) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as slow:
            slow.sendall(UPLOAD)
            slow.settimeout(0.1)
            answer = b""
            for at in range(len(BODY) - 1):
                slow.sendall(BODY[at : at + 1])
                with suppress(TimeoutError):
                    answer = slow.recv(4096)
                    break
            assert answer.startswith(b"HTTP/1.1 408 ")
