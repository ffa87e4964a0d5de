"""One suite for every object store: what `storage.base` says, on the real thing."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from aotcache.errors import (
    InvalidNameError,
    ObjectExistsError,
    ObjectMissingError,
    StorageUnavailableError,
)
from aotcache.net.http import HttpClient
from aotcache.protocol.names import check_object_key, pack_key
from aotcache.storage import (
    DirectStore,
    ObjectInfo,
    ObjectStore,
    http_store,
    open_store,
    presigned_store,
)
from support.azurite import AzureServer
from support.cloud import CloudServer
from support.fake_gcs import GcsServer, service_account
from support.presign import open_publish, presigning
from support.process import free_ports
from support.s3 import S3Server
from support.service import run_service

MIB = 1 << 20


def publish_id(namespace: str) -> str:
    """Of the one publish that each namespace has here."""
    return hashlib.sha256(namespace.encode()).hexdigest()[:32]


def pack(data: bytes = b"one pack", namespace: str = "ns") -> tuple[str, bytes]:
    """A pack as a publisher puts it: the service accepts no other objects."""
    name = f"{hashlib.sha256(data).hexdigest()}-{publish_id(namespace)}"
    return pack_key(namespace, name), data


def _files(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    yield open_store((request.getfixturevalue("tmp_path") / "store").as_uri())


def _memory(_: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    yield open_store(f"memory://{uuid.uuid4().hex}")


def _cloud(server: str) -> Callable[[pytest.FixtureRequest], Iterator[ObjectStore]]:
    def opened(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
        cloud: CloudServer = request.getfixturevalue(server)
        cloud.use(request.getfixturevalue("monkeypatch"))
        yield open_store(cloud.fresh_url())

    return opened


def _http(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    from aotcache_service.settings import ServiceSettings

    data_dir: Path = request.getfixturevalue("tmp_path") / "service"
    with run_service(ServiceSettings(data_dir=data_dir)) as url:
        client = HttpClient(url)
        yield http_store(client)
        client.close()


def _presigned(server: str) -> Callable[[pytest.FixtureRequest], Iterator[ObjectStore]]:
    def opened(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
        s3: S3Server = request.getfixturevalue(server)
        s3.use(request.getfixturevalue("monkeypatch"))
        with presigning(request.getfixturevalue("tmp_path"), s3.fresh_url()) as client:
            for namespace in ("ns", "team", "team-a", "team0"):
                open_publish(client, publish_id(namespace), namespace)
            yield presigned_store(client, required=True)

    return opened


BACKENDS = {
    "files": _files,
    "memory": _memory,
    "seaweedfs": _cloud("seaweedfs"),
    "ministack": _cloud("ministack"),
    "fake_gcs": _cloud("fake_gcs"),
    "azurite": _cloud("azurite"),
    "http": _http,
    "presigned-seaweedfs": _presigned("seaweedfs"),
    "presigned-ministack": _presigned("ministack"),
}


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    for opened in BACKENDS[request.param](request):
        yield opened
        opened.close()


DIRECT = [name for name in BACKENDS if not name.startswith(("http", "presigned"))]


@pytest.mark.parametrize("store", DIRECT, indirect=True)
def test_a_reader_sees_what_is_replaced_or_what_replaces_it(store: DirectStore) -> None:
    key, contents = pack()[0], [os.urandom(1) * (100_000 + number) for number in range(20)]
    store.put(key, contents[0])
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(store.get(key))

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for content in contents:
            store.replace(key, content)
            assert store.get(key) == content
        done.set()
    for reader in readers:
        reader.result()
    assert seen <= set(contents)
    assert list(store.list("ns/packs/")) == [ObjectInfo(key, len(contents[-1]))]
    # Where there is none it is put.
    store.delete(key)
    store.replace(key, b"one")
    assert store.get(key) == b"one"
    with pytest.raises(InvalidNameError):
        store.replace("../outside", b"one")


@pytest.mark.parametrize("size", [1, 5 * MIB])
def test_round_trip(store: ObjectStore, size: int) -> None:
    key, data = pack(os.urandom(size))
    store.put(key, data)
    assert store.get(key) == data
    assert store.size(key) == size
    assert list(store.list("ns/packs/")) == [ObjectInfo(key, size)]


def test_a_view_is_put_like_bytes(store: ObjectStore) -> None:
    key, data = pack(os.urandom(1000))
    store.put(key, memoryview(b"xx" + data + b"yy")[2:-2])
    assert store.get(key) == data


def test_first_put_wins(store: ObjectStore) -> None:
    key, data = pack()
    store.put(key, data)
    with pytest.raises(ObjectExistsError):
        store.put(key, data)
    assert store.get(key) == data
    assert len(list(store.list("ns/"))) == 1


def test_of_racing_puts_one_wins(store: ObjectStore) -> None:
    key, data = pack(os.urandom(100_000))
    together = threading.Barrier(16)

    def put(_: int) -> bool:
        together.wait()
        try:
            store.put(key, data)
        except ObjectExistsError:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(put, range(16))) == 1
    assert store.get(key) == data


def test_missing(store: ObjectStore) -> None:
    key, _ = pack()
    with pytest.raises(ObjectMissingError, match=key):
        store.get(key)
    with pytest.raises(ObjectMissingError, match=key):
        store.get_range(key, 0, 1)
    with pytest.raises(ObjectMissingError, match=key):
        store.size(key)
    assert list(store.list("ns/")) == []
    assert list(store.list("")) == []


def test_a_key_that_only_others_start_with_is_missing(store: ObjectStore) -> None:
    key, data = pack()
    store.put(key, data)
    with pytest.raises(ObjectMissingError):
        store.get(key.rsplit("/", 1)[0])
    with pytest.raises(ObjectMissingError):
        store.get(key + "/below")


def test_ranges_are_exact(store: ObjectStore) -> None:
    key, data = pack(os.urandom(1000))
    store.put(key, data)
    for start, end in [(0, 1), (0, 1000), (999, 1000), (17, 500)]:
        assert store.get_range(key, start, end) == data[start:end]


@pytest.mark.parametrize(("start", "end"), [(999, 1001), (0, 5000), (1000, 1001), (4000, 4001)])
def test_a_range_past_the_end_is_never_short(store: ObjectStore, start: int, end: int) -> None:
    key, data = pack(os.urandom(1000))
    store.put(key, data)
    with pytest.raises(StorageUnavailableError, match=key):
        store.get_range(key, start, end)


@pytest.mark.parametrize(("start", "end"), [(-1, 1), (5, 5), (5, 4)])
def test_a_range_that_is_none(store: ObjectStore, start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not a range"):
        store.get_range(pack()[0], start, end)


def test_concurrent_ranges(store: ObjectStore) -> None:
    key, data = pack(os.urandom(MIB))
    store.put(key, data)
    step = MIB // 32

    def read(number: int) -> bytes:
        return store.get_range(key, number * step, (number + 1) * step)

    with ThreadPoolExecutor(32) as threads:
        assert b"".join(threads.map(read, range(32))) == data


def test_what_is_expected_is_read_as_ever(store: ObjectStore) -> None:
    keys = [pack(b"%d" % number) for number in range(5)]
    for key, data in keys[1:]:
        store.put(key, data)
    store.expect([key for key, _ in keys])
    store.expect([])
    assert [store.get(key) for key, _ in keys[1:]] == [data for _, data in keys[1:]]
    with pytest.raises(ObjectMissingError):
        store.get(keys[0][0])


def test_list(store: ObjectStore) -> None:
    # `team-a` sorts before `team/`, though a directory `team` comes first.
    stored = {}
    for namespace in ("team", "team-a", "team0"):
        for number in range(8):
            key, data = pack(b"%d" % number * (number + 1), namespace)
            store.put(key, data)
            stored[key] = len(data)
    everything = [ObjectInfo(key, stored[key]) for key in sorted(stored)]
    assert list(store.list("")) == everything
    for after in (everything[0].key, everything[11].key, everything[12].key + "x"):
        assert list(store.list("", after)) == [found for found in everything if found.key > after]
    assert list(store.list("", everything[-1].key)) == []
    team = [found for found in everything if found.key.startswith("team/")]
    assert list(store.list("team/")) == team
    assert list(store.list("team/packs/", team[3].key)) == team[4:]
    assert list(store.list("tea/")) == []


def test_delete(store: ObjectStore) -> None:
    key, data = pack()
    other, _ = pack(b"another")
    store.put(key, data)
    store.put(other, b"another")
    store.delete(key)
    store.delete(key)
    with pytest.raises(ObjectMissingError):
        store.get(key)
    assert [found.key for found in store.list("")] == [other]
    store.put(key, data)
    assert store.get(key) == data


BAD_KEYS = ["../x", "ns/../x", "ns//b", "/ns/b", "ns/./b", "ns/.b", "ns/a\0b", "ns/a\nb", "ns/é"]
BAD_KEYS += ["", "ns", "ns/", "NS/b", "ns/a?b", "ns/a%2fb", "ns/a b", "ns/" + "a" * 510]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_bad_keys_do_not_reach_storage(store: ObjectStore, key: str) -> None:
    with pytest.raises(InvalidNameError):
        store.put(key, b"x")
    with pytest.raises(InvalidNameError):
        store.get(key)
    with pytest.raises(InvalidNameError):
        store.get_range(key, 0, 1)
    with pytest.raises(InvalidNameError):
        store.size(key)
    with pytest.raises(InvalidNameError):
        store.delete(key)


@pytest.mark.parametrize("prefix", ["ns", "/", "../", "ns//", "ns/../"])
def test_bad_prefixes(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(InvalidNameError):
        store.list(prefix)


def test_changes_are_announced(store: ObjectStore, audited: list[tuple[str, str]]) -> None:
    key, data = pack()
    store.put(key, data)
    store.delete(key)
    # Through the service, its own store announces them again.
    assert list(dict.fromkeys(audited)) == [("put", key), ("delete", key)]


def _every_call(store: ObjectStore, key: str) -> Iterator[Callable[[], object]]:
    yield lambda: store.put(key, b"one pack")
    yield lambda: store.get(key)
    yield lambda: store.get_range(key, 0, 1)
    yield lambda: store.size(key)
    yield lambda: list(store.list("ns/"))
    yield lambda: store.delete(key)


def _whole_text(error: BaseException | None) -> str:
    text = ""
    while error:
        text += repr(error) + str(error)
        error = error.__cause__ or error.__context__
    return text


WRONG_SECRETS = {
    "seaweedfs": ("AWS_SECRET_ACCESS_KEY", "wrong-secret-4711-wrong-secret-4711"),
    "fake_gcs": (
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        service_account(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    ),
    "azurite": ("AZURE_STORAGE_ACCOUNT_KEY", b64encode(b"wrong-secret-4711" * 3).decode()),
}


@pytest.mark.parametrize("server", WRONG_SECRETS)
def test_wrong_secret(
    server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud: CloudServer = request.getfixturevalue(server)
    cloud.use(monkeypatch)
    variable, secret = WRONG_SECRETS[server]
    monkeypatch.setenv(variable, secret)
    store = open_store(cloud.fresh_url())
    for call in _every_call(store, pack()[0]):
        with pytest.raises(StorageUnavailableError) as caught:
            call()
        assert secret not in _whole_text(caught.value)
        assert store.url in str(caught.value)


@pytest.mark.parametrize("server", ["seaweedfs", "ministack", "fake_gcs", "azurite"])
def test_a_missing_bucket_is_no_missing_object(
    server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud: CloudServer = request.getfixturevalue(server)
    cloud.use(monkeypatch)
    scheme = cloud.fresh_url().partition("://")[0]
    store = open_store(f"{scheme}://no-such-bucket/prefix")
    for call in list(_every_call(store, pack()[0]))[:-1]:  # deleting what is not there is fine
        with pytest.raises(StorageUnavailableError, match=r"bucket|container"):
            call()


@pytest.mark.parametrize("kind", ["s3", "gs", "az", "http"])
def test_unreachable(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "a-secret-that-nobody-may-read"
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    if kind == "http":
        store = http_store(HttpClient(url, token=secret))
    else:
        S3Server(url, secret_key=secret).use(monkeypatch)
        GcsServer(url).use(monkeypatch)
        AzureServer(url).use(monkeypatch)
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"sv=2023-11-03&sig={secret}")
        store = open_store(f"{kind}://bucket/prefix")
    started = time.monotonic()
    for call in _every_call(store, pack()[0]):
        with pytest.raises(StorageUnavailableError, match=f"{port}|bucket") as caught:
            call()
        assert secret not in _whole_text(caught.value)
    # Six calls with their repeats; a bound against hanging, not a measurement.
    assert time.monotonic() - started < 60


def test_keys_of_others_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(tmp_path.as_uri())
    key, data = pack()
    store.put(key, data)
    (tmp_path / "ns" / "packs" / ".hidden").write_bytes(b"x")
    (tmp_path / "README").write_bytes(b"x")
    assert [found.key for found in store.list("")] == [check_object_key(key)]
    assert ".hidden" in caplog.text
    assert "README" in caplog.text
