"""What is asked of GCS and Azure, and answers of theirs that no emulator gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aotcache.errors import (
    ObjectExistsError,
    ObjectMissingError,
    StorageUnavailableError,
    UsageError,
)
from aotcache.storage import DirectStore, cloud_store, open_store
from support.azurite import AzureServer
from support.fake_gcs import GcsServer
from support.http import Recorder, Reply, Request, serving

KEY = "ns/packs/ab/one"
OBJECT = {"ETag": '"tag"', "Last-Modified": "Wed, 21 Oct 2026 07:28:00 GMT"}
SCHEMES = ["gs", "az"]


def opened(scheme: str, server: Recorder, patch: pytest.MonkeyPatch) -> DirectStore:
    GcsServer(server.url).use(patch)
    AzureServer(server.url).use(patch)
    return open_store(f"{scheme}://bucket/a/prefix")


def error(status: int, code: str, more: str = "") -> Reply:
    body = f"<Error><Code>{code}</Code><Message>as asked\nTime:now</Message>{more}</Error>"
    return Reply(status, body.encode(), {"Content-Type": "application/xml"})


def put_there(_: Request) -> Reply:
    return Reply(201, b"", {**OBJECT, "x-goog-generation": "1"})


@pytest.mark.parametrize(
    ("scheme", "header", "value"),
    [("gs", "x-goog-if-generation-match", "0"), ("az", "if-none-match", "*")],
)
def test_a_put_is_on_condition_that_there_is_none(
    scheme: str, header: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(put_there) as server:
        store = opened(scheme, server, monkeypatch)
        store.put(KEY, b"data")
        store.replace(KEY, b"other")
    put, replaced = server.requests
    assert (put.method, put.body, put.headers[header]) == ("PUT", b"data", value)
    assert (replaced.method, replaced.body) == ("PUT", b"other")
    assert header not in replaced.headers


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [("gs", error(412, "PreconditionFailed")), ("az", error(409, "BlobAlreadyExists"))],
)
def test_what_is_there_already(scheme: str, answer: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: answer) as server, pytest.raises(ObjectExistsError):
        opened(scheme, server, monkeypatch).put(KEY, b"data")
    assert len(server.requests) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("first", [error(429, "TooManyRequests"), error(503, "ServerBusy"), None])
def test_a_put_is_tried_again(
    scheme: str, first: Reply | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Callable[[Request], Reply | None]] = [lambda _: first, put_there]
    with serving(lambda request: answers.pop(0)(request)) as server:
        opened(scheme, server, monkeypatch).put(KEY, b"data")
    assert not answers


def test_another_conflict_on_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: error(409, "ContainerBeingDeleted")) as server:
        store = opened("az", server, monkeypatch)
        with pytest.raises(StorageUnavailableError, match="409 ContainerBeingDeleted as asked:"):
            store.put(KEY, b"data")
    assert len(server.requests) == cloud_store.ATTEMPTS


@pytest.mark.parametrize(
    ("scheme", "no_object", "no_bucket"),
    [("gs", "NoSuchKey", "NoSuchBucket"), ("az", "BlobNotFound", "ContainerNotFound")],
)
def test_which_of_the_two_is_missing(
    scheme: str, no_object: str, no_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [error(404, no_object), error(404, no_bucket)]
    with serving(lambda _: answers.pop(0)) as server:
        store = opened(scheme, server, monkeypatch)
        with pytest.raises(ObjectMissingError):
            store.get(KEY)
        with pytest.raises(StorageUnavailableError, match=f"404 {no_bucket}"):
            store.get(KEY)


def test_an_object_whose_bucket_cannot_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a HEAD has no body, and credentials need not allow to list."""
    answers = [Reply(404), error(403, "AccessDenied"), Reply(404), error(400, "NoneOfThese")]
    with serving(lambda _: answers.pop(0)) as server:
        store = opened("gs", server, monkeypatch)
        with pytest.raises(ObjectMissingError):
            store.size(KEY)
        with pytest.raises(StorageUnavailableError, match="400 NoneOfThese"):
            store.size(KEY)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_was_signed_is_not_repeated(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure tells of a wrong signature with all that it was to be of."""

    def answer(request: Request) -> Reply:
        signed = "\n".join(f"{name}:{value}" for name, value in request.headers.items())
        detail = f"<AuthenticationErrorDetail>{signed}</AuthenticationErrorDetail>"
        return error(403, "AuthenticationFailed", detail)

    with serving(answer) as server:
        store = opened(scheme, server, monkeypatch)
        for call in (
            lambda: store.put(KEY, b"data"),
            lambda: store.get(KEY),
            lambda: store.size(KEY),
            lambda: list(store.list("ns/")),
            lambda: store.delete(KEY),
        ):
            with pytest.raises(StorageUnavailableError, match="403") as caught:
                call()
            said, cause = str(caught.value), caught.value.__cause__
            while cause:
                said, cause = said + repr(cause), cause.__cause__ or cause.__context__
            for request in server.requests:
                assert request.headers["authorization"].split(" ", 1)[1] not in said
            assert "authorization" not in said.lower()


def test_azure_without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(UsageError, match="set AZURE_STORAGE_ACCOUNT_NAME"):
        open_store("az://container")


def test_a_key_of_an_account_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    AzureServer("http://127.0.0.1:1", key="!canary-4711").use(monkeypatch)
    with pytest.raises(UsageError, match="AZURE_STORAGE_ACCOUNT_KEY") as caught:
        open_store("az://container")
    assert "canary" not in str(caught.value)


def test_abfs_is_az(monkeypatch: pytest.MonkeyPatch) -> None:
    AzureServer("http://127.0.0.1:1").use(monkeypatch)
    assert open_store("abfs://container/a").url == open_store("az://container/a/").url
