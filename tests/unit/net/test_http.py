"""The HTTP pool: errors, repeats, proxies, and a token that shows nowhere."""

from __future__ import annotations

import logging
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from aotcache.errors import (
    AotcacheError,
    CondemnedError,
    InvalidNameError,
    NotFoundError,
    RateLimitedError,
    RemoteError,
    UnavailableError,
    UsageError,
    VersionError,
)
from aotcache.net.http import HttpClient
from aotcache.protocol.v1.problem import Problem
from support.http import Reply, Request, serving
from support.process import free_ports

TOKEN = "token-that-nobody-may-read"


@dataclass(frozen=True)
class Thing:
    name: str


@dataclass(frozen=True)
class NoThing:
    code: str
    message: str
    reason: str


def problem(status: int, code: str) -> Reply:
    return Reply(status, msgspec.json.encode(Problem(code=code, message=f"because {code}")))


def test_json_both_ways() -> None:
    with serving(lambda request: Reply(200, request.body)) as server:
        client = HttpClient(server.url + "/", TOKEN)
        got = client.request_json("POST", "/v1/x", Thing("a"), Thing, query={"q": "a b&c"})
        client.close()
    assert got == Thing("a")
    (request,) = server.requests
    assert request.path == "/v1/x?q=a+b%26c"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["content-type"] == "application/json"


def test_bytes_both_ways() -> None:
    with serving(lambda request: Reply(201, request.body, {"X-Thing": "1"})) as server:
        answer = HttpClient(server.url).request_bytes("PUT", "/o", memoryview(b"data"))
    assert (answer.status, answer.data, answer.headers["x-thing"]) == (201, b"data", "1")
    assert server.requests[0].headers["content-length"] == "4"
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("condemned", CondemnedError),
        ("not_found", NotFoundError),
        ("invalid_name", InvalidNameError),
        ("version", VersionError),
        ("of_a_newer_service", RemoteError),
    ],
)
def test_a_problem_becomes_its_error(code: str, kind: type[AotcacheError]) -> None:
    with serving(lambda _: problem(400, code)) as server, pytest.raises(kind) as caught:
        HttpClient(server.url).request_json("POST", "/v1/x", Thing("a"), Thing)
    assert type(caught.value) is kind
    assert str(caught.value) == f"because {code}"


def test_a_path_that_an_older_service_lacks() -> None:
    with (
        serving(lambda _: problem(404, "remote")) as server,
        pytest.raises(VersionError, match="older than this client"),
    ):
        HttpClient(server.url).request_json("GET", "/v1/later", None, Thing)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"<html>welcome</html>"),
        Reply(200, b'{"other": 1}'),
        Reply(204),
        Reply(404, b"<html>nginx</html>"),
        Reply(404, b'{"detail": "Not Found"}'),
        Reply(401, b""),
        Reply(301, b"", {"Location": "https://elsewhere/"}),
        Reply(500, b"Internal Server Error"),
    ],
)
def test_what_is_not_the_services_answer(reply: Reply) -> None:
    with serving(lambda _: reply) as server, pytest.raises(UnavailableError) as caught:
        HttpClient(server.url, TOKEN).request_json("GET", "/v1/x", None, Thing)
    assert f"{server.url}/v1/x" in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 500])
def test_what_a_service_says_is_a_line_of_text(status: int) -> None:
    """It goes to terminals and into logs."""
    body = Problem(code="remote", message=f"\x1b[2J\nall is well\u009b{'x' * 10_000}")
    answer = Reply(status, msgspec.json.encode(body))
    with serving(lambda _: answer) as server, pytest.raises(RemoteError) as caught:
        HttpClient(server.url, retries=0).request_json("GET", "/v1/x", None, Problem)
    assert str(caught.value).startswith(r"\x1b[2J\nall is well\x9bxxx")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 5000


def test_a_miss_is_no_error_where_the_call_knows_it() -> None:
    miss = Reply(404, msgspec.json.encode(NoThing(code="miss", message="m", reason="unknown")))
    with serving(lambda _: miss) as server:
        got = HttpClient(server.url).request_json("POST", "/x", None, Thing, miss=NoThing)
    assert got == NoThing(code="miss", message="m", reason="unknown")
    with serving(lambda _: problem(404, "not_found")) as server, pytest.raises(NotFoundError):
        HttpClient(server.url).request_json("POST", "/x", None, Thing, miss=NoThing)
    with serving(lambda _: Reply(404, b"")) as server, pytest.raises(UnavailableError):
        HttpClient(server.url).request_json("POST", "/x", None, Thing, miss=NoThing)


@pytest.mark.parametrize(("method", "times"), [("GET", 3), ("PUT", 3), ("POST", 1), ("DELETE", 1)])
@pytest.mark.parametrize("bad", [Reply(503, b"busy"), None, Reply(200, b"0123456789", cut=4)])
def test_only_what_can_be_repeated_is(method: str, times: int, bad: Reply | None) -> None:
    answers = [bad, bad, Reply(200, b"done")]
    with serving(lambda _: answers.pop(0)) as server:
        client = HttpClient(server.url)
        if times == 3:
            assert client.request_bytes(method, "/x", b"data").data == b"done"
        else:
            with pytest.raises(UnavailableError):
                client.request_bytes(method, "/x", b"data")
    assert [request.body for request in server.requests] == [b"data"] * times


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [("1", 0.5, 1.0), ("3600", 1.0, 2.0), ("0", 0, 0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0, 0)],
)
def test_who_is_told_to_come_again_later_does(
    said: str, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all at the same moment, and never later than a start can wait."""
    paused: list[float] = []
    monkeypatch.setattr(time, "sleep", paused.append)
    for _ in range(20):
        answers = [Reply(503, b"busy", {"Retry-After": said}), Reply(200, b"done")]
        with serving(lambda _, answers=answers: answers.pop(0)) as server:
            assert HttpClient(server.url).request_bytes("GET", "/x").data == b"done"
    assert all(least <= seconds <= most for seconds in paused)
    assert len(paused) == 20
    assert (len(set(paused)) > 1) == (most > 0)


def test_a_post_that_may_arrive_twice_outlasts_a_balancer() -> None:
    """Which passed it to a replica that had just died, and does so once more."""
    answers = [Reply(502, b"bad gateway"), Reply(502, b"bad gateway"), Reply(200, b'{"name": "x"}')]
    with serving(lambda _: answers.pop(0)) as server:
        client = HttpClient(server.url)
        assert client.request_json("POST", "/v1/x", None, Thing, repeat=True) == Thing("x")
    assert not answers


def test_a_problem_that_stays_is_told() -> None:
    with serving(lambda _: problem(503, "storage_unavailable")) as server:
        client = HttpClient(server.url, retries=1)
        with pytest.raises(AotcacheError, match="because storage_unavailable"):
            client.request_bytes("GET", "/x")
    assert len(server.requests) == 2


def test_no_server() -> None:
    (port,) = free_ports(1)
    client = HttpClient(f"http://127.0.0.1:{port}", TOKEN)
    with pytest.raises(UnavailableError, match=f"127.0.0.1:{port}.*refused"):
        client.request_json("GET", "/v1/x", None, Thing)


def test_a_server_that_says_nothing() -> None:
    waiting = threading.Event()

    def answer(_: Request) -> Reply | None:
        waiting.wait(30)
        return None

    with serving(answer) as server:
        client = HttpClient(server.url, read_seconds=0.2)
        with pytest.raises(UnavailableError, match="timed out"):
            client.request_json("POST", "/v1/x", None, Thing)
        waiting.set()


def test_the_token_shows_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    (port,) = free_ports(1)
    silent = HttpClient(f"http://127.0.0.1:{port}", TOKEN, retries=1)
    with pytest.raises(UnavailableError) as caught:
        silent.request_bytes("GET", "/x")
    with serving(lambda _: Reply(500, b"no")) as server:
        client = HttpClient(server.url, TOKEN)
        with pytest.raises(UnavailableError) as second:
            client.request_bytes("GET", "/x")
    shown = [repr(client), str(client), caplog.text]
    for error in (caught.value, second.value, caught.value.__cause__):
        shown += [str(error), repr(error)]
    assert not [text for text in shown if TOKEN in text]


def test_a_token_in_a_file_is_read_each_time(tmp_path: Path) -> None:
    """Kubernetes replaces it while we run."""
    file = tmp_path / "token"
    with serving(lambda _: Reply(200, b"{}")) as server:
        client = HttpClient(server.url, token_file=str(file))
        for token in ("first", "second"):
            file.write_text(f"{token}\n")
            client.request_bytes("GET", "/x")
        file.write_text("not a token\n")
        with pytest.raises(UsageError, match=str(file)) as caught:
            client.request_bytes("GET", "/x")
        assert "not a token" not in str(caught.value)
        file.unlink()
        with pytest.raises(UsageError, match=f"cannot read the token file {file}: No such"):
            client.request_bytes("GET", "/x")
    told = [request.headers["authorization"] for request in server.requests]
    assert told == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_asks_too_often_asks_again_later(method: str) -> None:
    """Also what is not repeated otherwise: it was not done."""
    answers = [problem(429, "rate_limited"), Reply(200, b"done")]
    with serving(lambda _: answers.pop(0)) as server:
        assert HttpClient(server.url).request_bytes(method, "/x").data == b"done"
    with serving(lambda _: problem(429, "rate_limited")) as server:
        with pytest.raises(RateLimitedError, match="because rate_limited"):
            HttpClient(server.url, retries=1).request_bytes(method, "/x")
        assert len(server.requests) == 2


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "ünicode"])
def test_a_token_that_cannot_be_sent(token: str) -> None:
    with pytest.raises(UsageError) as caught:
        HttpClient("http://127.0.0.1:1", token)
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "host:80", "ftp://host", "http://", "http://h:x", "http://[x", "http://h?q=1"]
)
def test_urls_of_no_service(url: str) -> None:
    with pytest.raises(UsageError):
        HttpClient(url)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        HttpClient("http://user:hunter2@host")
    assert "hunter2" not in str(caught.value)


def test_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Reply(200, b'{"name": "by proxy"}')) as proxy:
        address = proxy.url.removeprefix("http://")
        monkeypatch.setenv("http_proxy", f"http://user:p%40ss@{address}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        client = HttpClient("http://service.invalid:8750")
        assert client.request_json("GET", "/v1/x", None, Thing) == Thing("by proxy")
        monkeypatch.setenv("no_proxy", "service.invalid")
        with pytest.raises(UnavailableError) as caught:
            HttpClient("http://service.invalid:8750", retries=0).request_bytes("GET", "/v1/x")
    (request,) = proxy.requests
    assert request.path == "http://service.invalid:8750/v1/x"
    assert request.headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"
    assert "p%40ss" not in str(caught.value)


def test_a_proxy_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://user:secret@host:1080")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(UsageError, match="no_proxy") as caught:
        HttpClient("http://service.invalid")
    assert "secret" not in str(caught.value)


def test_an_upload_may_take_longer_than_a_connection() -> None:
    """A server that is busy reads on after a while: longer than connecting may take."""
    data = bytes(16 << 20)
    answered = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
    got: list[int] = []

    def read_late(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            time.sleep(0.6)
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(1 << 20)
            size = len(received.partition(b"\r\n\r\n")[2])
            while size < len(data):
                size += len(connection.recv(1 << 20))
            got.append(size)
            connection.sendall(answered)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader = threading.Thread(target=read_late, args=(listener,))
        reader.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = HttpClient(url, connect_seconds=0.2, read_seconds=20, retries=0)
        assert client.request_bytes("PUT", "/v1/objects/x", data).status == 204
        reader.join()
    assert got == [len(data)]


def test_a_post_that_may_arrive_twice_is_sent_again() -> None:
    replies = iter([None, Reply(body=b'{"code":"x","message":"y"}')])
    with serving(lambda _request: next(replies)) as server:
        client = HttpClient(server.url)
        client.request_json("POST", "/v1/lookup", {}, Problem, repeat=True)
    assert [request.body for request in server.requests] == [b"{}", b"{}"]
