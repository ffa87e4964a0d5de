"""What a node does with the URLs it is given, and S3 that answers as no server here can."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import msgspec
import pytest

from aotcache.errors import (
    ObjectExistsError,
    ObjectMissingError,
    StorageUnavailableError,
    UnavailableError,
    UsageError,
)
from aotcache.net.http import HttpClient
from aotcache.protocol.v1.problem import Problem
from aotcache.storage import ObjectStore, presigned_store
from support.http import Recorder, Reply, Request, serving
from support.process import free_ports

QUERY = "X-Amz-Credential=who&X-Amz-Signature=cafecafe"
Answer = Callable[[Request], Reply | None]


def pack(number: int = 0) -> str:
    sha256 = hashlib.sha256(b"%d" % number).hexdigest()
    return f"ns/packs/{sha256[:2]}/{sha256}-{'1' * 32}"


def error(status: int, code: str) -> Reply:
    return Reply(status, f"<Error><Code>{code}</Code></Error>".encode())


def signing(s3: str, seconds: int = 60) -> Answer:
    """The service's part: it signs whatever is asked for, each time anew."""
    times = 0

    def answer(request: Request) -> Reply:
        nonlocal times
        if request.path != "/v1/presign":
            return Reply(200, b"through the service")
        times += 1
        asked = json.loads(request.body)
        read = [{"url": f"{s3}/b/{key}?{QUERY}{times}"} for key in asked["read"]]
        write = [
            {
                "url": f"{s3}/b/{one['key']}?{QUERY}{times}",
                "headers": {"x-signed": str(one["size"])},
            }
            for one in asked["write"]
        ]
        return Reply(200, json.dumps({"read": read, "write": write, "seconds": seconds}).encode())

    return answer


@contextmanager
def between(
    s3_answer: Answer, seconds: int = 60
) -> Iterator[tuple[ObjectStore, Recorder, Recorder]]:
    with serving(s3_answer) as s3, serving(signing(s3.url, seconds)) as service:
        store = presigned_store(HttpClient(service.url, token="the-token"), required=True)
        yield store, service, s3
        store.close()


def calls(service: Recorder) -> list[int]:
    """How many URLs each call was for."""
    bodies = [json.loads(r.body) for r in service.requests if r.path == "/v1/presign"]
    return [len(body["read"]) + len(body["write"]) for body in bodies]


def test_one_call_for_all_that_is_expected() -> None:
    keys = [pack(number) for number in range(20)]
    manifest = "ns/trees/inductor/x/" + "0" * 32 + "/shared/00000001.manifest"
    with between(lambda _: Reply(206, b"0123456789")) as (store, service, s3):
        store.expect([*keys, manifest, keys[0]])
        with ThreadPoolExecutor(8) as threads:
            got = list(threads.map(lambda key: store.get_range(key, 5, 15), keys * 3))
        store.expect(keys)
    assert got == [b"0123456789"] * 60
    assert calls(service) == [20]
    assert {request.headers["range"] for request in s3.requests} == {"bytes=5-14"}


def test_urls_that_came_with_a_lookup_are_used() -> None:
    keys = [pack(number) for number in range(3)]
    with between(lambda _: Reply(206, b"0123456789")) as (store, service, s3):
        manifest = "ns/trees/inductor/x/" + "0" * 32 + "/shared/00000001.manifest"
        urls = {key: f"{s3.url}/b/{key}?{QUERY}" for key in keys[:2]}
        store.take_urls({**urls, manifest: s3.url}, 60)
        store.prepare()
        store.expect(keys)
        assert [store.get_range(key, 5, 15) for key in keys] == [b"0123456789"] * 3
        assert store.get(manifest) == b"through the service"
    assert calls(service) == [1]  # of the third
    assert "manifest" not in {request.path.rpartition(".")[2] for request in s3.requests}


@pytest.mark.parametrize("seconds", [0, 60])
def test_a_url_that_came_and_is_refused_is_asked_for(seconds: int) -> None:
    """As old as a queue for the lookup was long, or of no time at all."""

    def answer(request: Request) -> Reply:
        return error(403, "AccessDenied") if "old" in request.path else Reply(206, b"0123456789")

    with between(answer) as (store, service, s3):
        store.take_urls({pack(): f"{s3.url}/b/{pack()}?old"}, seconds)
        assert store.get_range(pack(), 5, 15) == b"0123456789"
    assert calls(service) == [1]


def test_a_url_that_is_none() -> None:
    with (
        between(lambda _: None) as (store, _service, _s3),
        pytest.raises(UnavailableError, match="cannot be read"),
    ):
        store.take_urls({pack(): "http://[secret"}, 60)


def test_threads_that_wait_are_served_together() -> None:
    arrived = threading.Semaphore(0)

    def slow(request: Request) -> Reply | None:
        arrived.release()
        time.sleep(0.5)
        return answer(request)

    with serving(lambda _: Reply(200)) as s3:
        answer = signing(s3.url)
        with serving(slow) as service, ThreadPoolExecutor(16) as threads:
            store = presigned_store(HttpClient(service.url), required=True)
            first = threads.submit(store.put, pack(), b"data")
            assert arrived.acquire(timeout=30)
            rest = [threads.submit(store.put, pack(n), b"data") for n in range(1, 16)]
            for one in [first, *rest]:
                one.result()
    assert sum(calls(service)) == 16
    assert len(calls(service)) <= 3


def test_a_call_that_fails_fails_no_other_thread_for_good() -> None:
    times = iter(range(100))

    def sometimes(request: Request) -> Reply | None:
        if next(times) % 3 == 0:
            problem = Problem(code="storage_unavailable", message="not now")
            return Reply(500, msgspec.json.encode(problem))
        return answer(request)

    with serving(lambda _: Reply(200, b"data")) as s3:
        answer = signing(s3.url)
        with serving(sometimes) as service, ThreadPoolExecutor(8) as threads:
            store = presigned_store(HttpClient(service.url), required=True)

            def get(number: int) -> bytes:
                for _ in range(20):
                    try:
                        return store.get(pack(number))
                    except StorageUnavailableError:
                        continue
                return b""

            assert list(threads.map(get, range(8))) == [b"data"] * 8


def test_the_token_stays_with_the_service() -> None:
    with between(lambda _: Reply(200)) as (store, service, s3):
        store.put(pack(), b"data")
    assert service.requests[0].headers["authorization"] == "Bearer the-token"
    (sent,) = s3.requests
    assert "authorization" not in sent.headers
    assert (sent.headers["x-signed"], sent.headers["content-length"]) == ("4", "4")
    assert sent.path == f"/b/{pack()}?{QUERY}1"


def test_a_url_that_is_refused_is_asked_for_once_more() -> None:
    def once(request: Request) -> Reply:
        return error(403, "AccessDenied") if request.path.endswith("1") else Reply(200, b"data")

    with between(once) as (store, service, _):
        assert store.get(pack()) == b"data"
        store.put(pack(1), b"data")
        assert store.get(pack()) == b"data"
    assert calls(service) == [1, 1, 1]


@pytest.mark.parametrize("refusal", [error(403, "AccessDenied"), error(400, "ExpiredToken")])
def test_one_that_is_always_refused(refusal: Reply) -> None:
    with between(lambda _: refusal) as (store, service, s3):
        with pytest.raises(StorageUnavailableError, match=f"{pack()}.*check") as caught:
            store.get(pack())
        assert QUERY not in str(caught.value)
    assert (len(calls(service)), len(s3.requests)) == (2, 2)


def test_a_url_is_not_used_to_its_end() -> None:
    with between(lambda _: Reply(200, b"data"), seconds=1) as (store, service, _):
        store.get(pack())
        time.sleep(0.8)
        store.get(pack())
    assert len(calls(service)) == 2


def test_a_put_whose_answer_was_lost() -> None:
    answers = [None, error(412, "PreconditionFailed")]
    with between(lambda _: answers.pop(0)) as (store, _, s3), pytest.raises(ObjectExistsError):
        store.put(pack(), b"data")
    assert [request.body for request in s3.requests] == [b"data", b"data"]


def test_conflicts_and_passing_failures_are_tried_again() -> None:
    answers = [error(409, "ConditionalRequestConflict"), error(503, "SlowDown"), Reply(200)]
    with between(lambda _: answers.pop(0)) as (store, _, s3):
        store.put(pack(), b"data")
    assert len(s3.requests) == 3
    cut = [Reply(206, b"0123456789", cut=4), Reply(206, b"0123456789")]
    with between(lambda _: cut.pop(0)) as (store, _, s3):
        assert store.get_range(pack(), 0, 10) == b"0123456789"


@pytest.mark.parametrize(
    ("reply", "kind", "what"),
    [
        (error(404, "NoSuchKey"), ObjectMissingError, pack()),
        (error(404, "NoSuchBucket"), StorageUnavailableError, "NoSuchBucket.*check the bucket"),
        (Reply(404, b"<html>nginx</html>"), StorageUnavailableError, "404"),
        (Reply(307, b"", {"Location": "https://elsewhere/?x"}), StorageUnavailableError, "307"),
        (Reply(416, b""), StorageUnavailableError, "shorter"),
        (Reply(206, b"12345"), StorageUnavailableError, "shorter"),
    ],
)
def test_answers_of_s3(reply: Reply, kind: type[Exception], what: str) -> None:
    with between(lambda _: reply) as (store, _, s3), pytest.raises(kind, match=what):
        store.get_range(pack(), 0, 10)
    assert len(s3.requests) == 1


def test_s3_that_fails_itself() -> None:
    """It says so with 500 and 503, and that it is to be tried again."""
    failing = [error(500, "InternalError"), error(503, "SlowDown"), error(500, "InternalError")]
    with between(lambda _: failing.pop() if failing else Reply(206, b"0123456789")) as (
        store,
        _,
        _,
    ):
        assert store.get_range(pack(), 0, 10) == b"0123456789"
    with between(lambda _: error(500, "InternalError")) as (store, _, s3):
        with pytest.raises(StorageUnavailableError, match=r"500 InternalError.*not well, or full"):
            store.get_range(pack(), 0, 10)
        assert len(s3.requests) == 3


def test_no_s3_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "aotcache")
    (port,) = free_ports(1)
    with serving(signing(f"http://127.0.0.1:{port}")) as service:
        store = presigned_store(HttpClient(service.url), required=True)
        with pytest.raises(StorageUnavailableError, match=f"{port}.*AOTCACHE_TRANSFER") as caught:
            store.get(pack())
    text, failure = caplog.text, caught.value
    found: BaseException | None = failure
    while found:
        text += str(found) + repr(found)
        found = found.__cause__ or found.__context__
    assert re.search(r"again \(\S+\): ConnectionRefusedError", text)
    assert re.findall("X-Amz|cafecafe", text) == []


def test_a_service_that_signs_nothing() -> None:
    with serving(lambda _: Reply(200, b"{}")) as service:
        store = presigned_store(HttpClient(service.url), required=True)
        with pytest.raises(UsageError, match="signs no URLs"):
            store.get(pack())

    def answer(request: Request) -> Reply:
        return Reply(200, b"{}" if request.path == "/v1/presign" else b"data")

    with serving(answer) as service:
        store = presigned_store(HttpClient(service.url))
        store.expect([pack()])
        assert store.get(pack()) == b"data"
        store.put(pack(1), b"data")
        assert store.get_range(pack(2), 0, 4) == b"data"
    assert [request.path for request in service.requests][1:] == [
        f"/v1/objects/{pack(number)}" for number in range(3)
    ]


def test_a_service_that_signs_less_than_it_was_asked() -> None:
    with serving(lambda _: Reply(200, b'{"seconds": 60}')) as service:
        store = presigned_store(HttpClient(service.url))
        with pytest.raises(StorageUnavailableError, match="signed 0 URLs"):
            store.get(pack())
