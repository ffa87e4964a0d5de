"""What S3 does now and then, and a server here cannot be made to do: conflicts, cut answers."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aotcache.errors import ObjectExistsError, StorageUnavailableError, UsageError
from aotcache.storage import cloud_store, open_store
from support.http import Reply, Request, serving
from support.raw import Connection, raw_server
from support.s3 import S3Server
from support.tls import make_authority

KEY = "ns/packs/ab/one"
# S3 gives each object these; what was cut off is read on where the ETag is still the same.
OBJECT = {"ETag": '"tag"', "Last-Modified": "Wed, 21 Oct 2026 07:28:00 GMT"}


def error(status: int, code: str, more: str = "") -> Reply:
    body = f"<Error><Code>{code}</Code><Message>as asked</Message>{more}</Error>".encode()
    return Reply(status, body, {"Content-Type": "application/xml"})


def part(data: bytes, first: int, *, cut: int | None = None) -> Reply:
    """The bytes from `first` of an object of 20."""
    span = f"bytes {first}-{first + len(data) - 1}/20"
    return Reply(206, data, {**OBJECT, "Content-Range": span}, cut=cut)


def whole_text(error: BaseException | None) -> str:
    text = ""
    while error:
        text += repr(error) + str(error)
        error = error.__cause__ or error.__context__
    return text


@pytest.mark.parametrize(
    "first",
    [
        error(409, "ConditionalRequestConflict"),
        error(409, "OperationAborted"),
        error(503, "SlowDown"),
        None,  # the connection is closed: whether the object was stored, nobody knows
    ],
)
def test_a_put_is_tried_again(monkeypatch: pytest.MonkeyPatch, first: Reply | None) -> None:
    answers = [first, Reply(200, headers=OBJECT)]
    with serving(lambda _: answers.pop(0)) as server:
        S3Server(server.url).use(monkeypatch)
        open_store("s3://bucket").put(KEY, b"data")
    assert [request.headers["if-none-match"] for request in server.requests] == ["*", "*"]
    assert [request.body for request in server.requests] == [b"data", b"data"]
    assert {request.method for request in server.requests} == {"PUT"}


def test_a_conflict_may_end_with_another_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [error(409, "ConditionalRequestConflict"), error(412, "PreconditionFailed")]
    with serving(lambda _: answers.pop(0)) as server:
        S3Server(server.url).use(monkeypatch)
        with pytest.raises(ObjectExistsError):
            open_store("s3://bucket").put(KEY, b"data")


def test_a_conflict_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: error(409, "ConditionalRequestConflict")) as server:
        S3Server(server.url).use(monkeypatch)
        with pytest.raises(StorageUnavailableError, match="409 ConditionalRequestConflict"):
            open_store("s3://bucket").put(KEY, b"data")
    assert len(server.requests) == cloud_store.ATTEMPTS


def test_a_put_that_is_refused_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: error(403, "AccessDenied")) as server:
        S3Server(server.url).use(monkeypatch)
        with pytest.raises(StorageUnavailableError, match="403 AccessDenied as asked"):
            open_store("s3://bucket").put(KEY, b"data")
    assert len(server.requests) == 1


def test_a_large_object_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * (128 << 10)
    with serving(lambda _: Reply(200, headers=OBJECT)) as server:
        S3Server(server.url).use(monkeypatch)
        open_store("s3://bucket").put(KEY, memoryview(data))
    (request,) = server.requests
    assert (request.path, request.body == data) == (f"/bucket/{KEY}", True)


def test_an_answer_that_was_cut_off_is_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [part(b"0123456789", 10, cut=4), part(b"456789", 14)]
    with serving(lambda _: answers.pop(0)) as server:
        S3Server(server.url).use(monkeypatch)
        assert open_store("s3://bucket").get_range(KEY, 10, 20) == b"0123456789"
    assert [request.headers["range"] for request in server.requests] == [
        "bytes=10-19",
        "bytes=14-19",
    ]


def test_an_answer_that_is_always_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Reply(200, b"0123456789", OBJECT, cut=0)) as server:
        S3Server(server.url).use(monkeypatch)
        with pytest.raises(StorageUnavailableError, match=KEY):
            open_store("s3://bucket").get(KEY)


def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [error(503, "SlowDown"), Reply(200, b"data", OBJECT)]
    with serving(lambda _: answers.pop(0)) as server:
        S3Server(server.url).use(monkeypatch)
        assert open_store("s3://bucket").get(KEY) == b"data"


def test_a_put_may_take_longer_than_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of an answer counts from the first byte that is sent, and a pack is large."""
    monkeypatch.setattr(cloud_store, "READ_SECONDS", 0.2)
    late = threading.Event()

    def answer(request: Request) -> Reply | None:
        late.wait(1)
        return Reply(200, b"", OBJECT) if request.method == "PUT" else None

    with serving(answer) as server:
        S3Server(server.url).use(monkeypatch)
        store = open_store("s3://bucket")
        store.put(KEY, b"data")
        with pytest.raises(StorageUnavailableError, match="timed out"):
            store.get(KEY)
        late.set()


def listing(keys: list[str], more: str = "") -> Reply:
    when = "<LastModified>2026-10-21T07:28:00.000Z</LastModified>"
    rows = "".join(f"<Contents><Key>{k}</Key>{when}<Size>3</Size></Contents>" for k in keys)
    tail = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
    token = f"<NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    body = f"<ListBucketResult>{rows}{tail}{token}</ListBucketResult>"
    return Reply(200, body.encode(), {"Content-Type": "application/xml"})


def test_pages_are_followed_and_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: Request) -> Reply:
        if "continuation-token" in request.path:
            return listing(["p/a-b/x", "p/c/y"])
        return listing(["p/a/x", "p/a/y", "p/a/"], "next")

    with serving(answer) as server:
        S3Server(server.url).use(monkeypatch)
        store = open_store("s3://bucket/p")
        assert [found.key for found in store.list("")] == ["a-b/x", "a/x", "a/y", "c/y"]
        assert [found.key for found in store.list("", "a/x")] == ["a/y", "c/y"]


def test_a_key_that_is_no_path_ends_a_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: listing(["p/a/x", "p//y"])) as server:
        S3Server(server.url).use(monkeypatch)
        with pytest.raises(StorageUnavailableError, match="p//y"):
            list(open_store("s3://bucket/p").list(""))


def test_requests_go_to_the_region_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Reply(200, b"x", OBJECT)) as server:
        S3Server(server.url).use(monkeypatch)
        monkeypatch.setenv("AWS_REGION", "eu-north-1")
        open_store("s3://bucket").get(KEY)
    assert "/eu-north-1/s3/" in server.requests[0].headers["authorization"]


def test_another_region_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: error(301, "PermanentRedirect")) as server:
        S3Server(server.url).use(monkeypatch)
        with pytest.raises(StorageUnavailableError, match="set AWS_REGION"):
            open_store("s3://bucket").get(KEY)


def test_what_was_signed_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 tells of a wrong signature with all that it was to be of, the session token too."""
    token, secret = "token-canary-4711", "secret-canary-4711"

    def answer(request: Request) -> Reply:
        signed = "\n".join(f"{name}:{value}" for name, value in request.headers.items())
        return error(403, "SignatureDoesNotMatch", f"<CanonicalRequest>{signed}</CanonicalRequest>")

    with serving(answer) as server:
        S3Server(server.url, secret_key=secret).use(monkeypatch)
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
        store = open_store("s3://bucket")
        for call in (
            lambda: store.put(KEY, b"data"),
            lambda: store.get(KEY),
            lambda: store.get_range(KEY, 0, 1),
            lambda: store.size(KEY),
            lambda: list(store.list("ns/")),
            lambda: store.delete(KEY),
        ):
            with pytest.raises(StorageUnavailableError, match="403") as caught:
                call()
            said = whole_text(caught.value)
            assert token not in said
            assert secret not in said
            assert "Signature=" not in said
    assert server.requests[0].headers["x-amz-security-token"] == token


def test_credentials_that_no_header_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "token-canary-4711"
    with serving(lambda _: Reply(200, b"x", OBJECT)) as server:
        S3Server(server.url).use(monkeypatch)
        monkeypatch.setenv("AWS_SESSION_TOKEN", f"{token}\n")
        with pytest.raises(StorageUnavailableError, match="stray characters") as caught:
            open_store("s3://bucket").get(KEY)
    assert token not in whole_text(caught.value)


def test_half_of_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    S3Server("http://127.0.0.1:1").use(monkeypatch)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UsageError, match="SecretAccessKey"):
        open_store("s3://bucket")


def test_a_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Reply(200, b"data", OBJECT)) as proxy:
        S3Server("http://s3.nowhere.invalid").use(monkeypatch)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        assert open_store("s3://bucket").get(KEY) == b"data"
    assert proxy.requests[0].path == f"http://s3.nowhere.invalid/bucket/{KEY}"


def test_a_host_without_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Reply(200, b"data", OBJECT)) as server:
        S3Server(server.url).use(monkeypatch)
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert open_store("s3://bucket").get(KEY) == b"data"


def serve_data(connection: Connection) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in OBJECT.items())
    while connection.head():
        connection.answer(f"HTTP/1.1 200 OK\r\n{head}Content-Length: 4\r\n\r\ndata".encode())


def test_a_bundle_of_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    with raw_server(serve_data, authority.server) as server:
        S3Server(server.url).use(monkeypatch)
        with pytest.raises(StorageUnavailableError, match="invalid certificate: unknown issuer"):
            open_store("s3://bucket").get(KEY)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.certificate))
        assert open_store("s3://bucket").get(KEY) == b"data"


def test_connections_are_used_again_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(serve_data) as server:
        S3Server(server.url).use(monkeypatch)
        store = open_store("s3://bucket")
        for _ in range(5):
            assert store.get(KEY) == b"data"
        assert server.connections == 1
        store.close()
        assert server.closed.acquire(timeout=30)


def test_a_machine_without_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small containers: what certifi or botocore bring is trusted, as by other Python programs."""
    opened = "from aotcache.storage import open_store; store = open_store('s3://bucket'); "
    without = "import sys; sys.modules.update(certifi=None, botocore=None); "
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    with serving(lambda _: Reply(200, b"data", OBJECT)) as server:
        S3Server(server.url).use(monkeypatch)
        got = [sys.executable, "-c", opened + "assert store.get('ns/a/b') == b'data'"]
        subprocess.run(got, check=True, timeout=60)
        refused = subprocess.run(
            [sys.executable, "-c", without + opened], capture_output=True, text=True, timeout=60
        )
    assert "UsageError" in refused.stderr
    assert "No CA certificates" in refused.stderr
    assert "AWS_CA_BUNDLE" in refused.stderr


def test_a_signal_is_heard_while_a_server_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    silent, asked = threading.Event(), threading.Event()

    def answer(_: Request) -> None:
        asked.set()
        silent.wait(60)

    script = """
import signal
from aotcache.storage import open_store
# A shell that started the tests with & had it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
open_store("s3://bucket").get("ns/a/b")
"""
    with serving(answer) as server:
        S3Server(server.url).use(monkeypatch)
        process = subprocess.Popen(
            [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True
        )
        try:
            assert asked.wait(60)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=cloud_store.READ_SECONDS - 10)
        finally:
            process.kill()
            silent.set()
    assert "KeyboardInterrupt" in said


def test_a_fork_is_told_that_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rust's threads stay behind: without a word it would wait for ever."""
    script = """
import os, signal
from aotcache.errors import StorageUnavailableError
from aotcache.storage import open_store
opened = open_store("s3://bucket")
if os.fork() == 0:  # nothing was asked yet: each has threads of its own
    os._exit(opened.get("ns/a/b") != b"data")
assert os.wait()[1] == 0
assert opened.get("ns/a/b") == b"data"
if os.fork() == 0:
    signal.alarm(30)
    for store in (opened, open_store("s3://bucket")):
        try:
            store.get("ns/a/b")
        except StorageUnavailableError as error:
            assert "fork" in str(error)
        else:
            os._exit(1)
    os._exit(0)
assert os.wait()[1] == 0
"""
    with serving(lambda _: Reply(200, b"data", OBJECT)) as server:
        S3Server(server.url).use(monkeypatch)
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
