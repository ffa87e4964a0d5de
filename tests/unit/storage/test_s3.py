"""What S3 does now and then, and a server here cannot be made to do: conflicts, cut answers."""

from __future__ import annotations

import pytest

from aotcache.errors import ObjectExistsError, StorageUnavailableError
from aotcache.storage import open_store
from support.http import Reply, Request, serving
from support.s3 import S3Server

KEY = "ns/packs/ab/one"


def error(status: int, code: str) -> Reply:
    body = f"<Error><Code>{code}</Code><Message>as asked</Message></Error>".encode()
    return Reply(status, body, {"Content-Type": "application/xml"})


def test_a_conflict_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [error(409, "ConditionalRequestConflict"), Reply(200)]
    with serving(lambda _: answers.pop(0)) as server:
        S3Server(server.url).use(monkeypatch)
        open_store("s3://bucket").put(KEY, b"data")
    assert [request.headers["if-none-match"] for request in server.requests] == ["*", "*"]


def test_a_conflict_may_end_with_another_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [error(409, "ConditionalRequestConflict"), error(412, "PreconditionFailed")]
    with serving(lambda _: answers.pop(0)) as server:
        S3Server(server.url).use(monkeypatch)
        with pytest.raises(ObjectExistsError):
            open_store("s3://bucket").put(KEY, b"data")


def test_a_conflict_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: error(409, "ConditionalRequestConflict")) as server:
        S3Server(server.url).use(monkeypatch)
        with pytest.raises(StorageUnavailableError, match="ConditionalRequestConflict"):
            open_store("s3://bucket").put(KEY, b"data")


def test_an_answer_that_was_cut_off_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Reply(206, b"0123456789", cut=4), Reply(206, b"0123456789")]
    with serving(lambda _: answers.pop(0)) as server:
        S3Server(server.url).use(monkeypatch)
        assert open_store("s3://bucket").get_range(KEY, 10, 20) == b"0123456789"
    assert [request.headers["range"] for request in server.requests] == ["bytes=10-19"] * 2


def test_an_answer_that_is_always_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Reply(200, b"0123456789", cut=4)) as server:
        S3Server(server.url).use(monkeypatch)
        with pytest.raises(StorageUnavailableError, match=KEY):
            open_store("s3://bucket").get(KEY)


def test_pages_are_followed_and_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    def page(keys: list[str], more: str) -> Reply:
        rows = "".join(f"<Contents><Key>p/{k}</Key><Size>3</Size></Contents>" for k in keys)
        tail = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
        token = f"<NextContinuationToken>{more}</NextContinuationToken>" if more else ""
        body = f"<ListBucketResult>{rows}{tail}{token}</ListBucketResult>"
        return Reply(200, body.encode(), {"Content-Type": "application/xml"})

    def answer(request: Request) -> Reply:
        if "continuation-token" in request.path:
            return page(["a-b/x", "c/y"], "")
        return page(["a/x", "a/y", "a/"], "next")

    with serving(answer) as server:
        S3Server(server.url).use(monkeypatch)
        store = open_store("s3://bucket/p")
        assert [found.key for found in store.list("")] == ["a-b/x", "a/x", "a/y", "c/y"]
        assert [found.key for found in store.list("", "a/x")] == ["a/y", "c/y"]


def test_requests_go_to_the_region_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Reply(200, b"x")) as server:
        S3Server(server.url).use(monkeypatch)
        monkeypatch.setenv("AWS_REGION", "eu-north-1")
        open_store("s3://bucket").get(KEY)
    assert "/eu-north-1/s3/" in server.requests[0].headers["authorization"]
