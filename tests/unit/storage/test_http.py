"""The store behind a service, where what is in between answers in its own way."""

from __future__ import annotations

import msgspec
import pytest

from aotcache.errors import (
    ManifestError,
    ObjectExistsError,
    ObjectMissingError,
    StorageUnavailableError,
)
from aotcache.net.http import HttpClient
from aotcache.protocol.v1.problem import Problem
from aotcache.storage import http_store
from support.http import Reply, Request, serving

KEY = "ns/packs/ab/one"


def problem(status: int, code: str) -> Reply:
    return Reply(status, msgspec.json.encode(Problem(code=code, message=f"because {code}")))


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (problem(409, "object_exists"), ObjectExistsError),
        (problem(400, "bad_manifest"), ManifestError),
        (problem(500, "storage_unavailable"), StorageUnavailableError),
        (problem(403, "remote"), StorageUnavailableError),
        (Reply(404, b"<html>nginx</html>"), StorageUnavailableError),
        (Reply(413, b"<html>too large</html>"), StorageUnavailableError),
    ],
)
def test_put(reply: Reply, kind: type[Exception]) -> None:
    with serving(lambda _: reply) as server, pytest.raises(kind):
        http_store(HttpClient(server.url)).put(KEY, b"data")


def test_what_is_missing_and_what_is_not_the_service() -> None:
    with serving(lambda _: problem(404, "object_missing")) as server:
        store = http_store(HttpClient(server.url))
        with pytest.raises(ObjectMissingError):
            store.size(KEY)
        with pytest.raises(ObjectMissingError):
            store.get(KEY)
    with serving(lambda _: Reply(404, b"<html>wrong place</html>")) as server:
        store = http_store(HttpClient(server.url))
        with pytest.raises(StorageUnavailableError, match="404"):
            store.size(KEY)
        with pytest.raises(StorageUnavailableError, match="404"):
            store.get(KEY)


def test_a_proxy_that_knows_no_ranges() -> None:
    with serving(lambda _: Reply(200, b"0123456789")) as server:
        store = http_store(HttpClient(server.url))
        assert store.get_range(KEY, 2, 5) == b"234"
        with pytest.raises(StorageUnavailableError):
            store.get_range(KEY, 8, 12)


def test_pages_are_followed() -> None:
    def answer(request: Request) -> Reply:
        assert request.path.startswith("/objects?prefix=ns%2F&after=")
        first = "after=&" in request.path
        keys = ("ns/a", "ns/b") if first else ("ns/c",)
        objects = [{"key": key, "size": 3} for key in keys]
        return Reply(200, msgspec.json.encode({"objects": objects, "after": "ns/b" * first}))

    with serving(answer) as server:
        store = http_store(HttpClient(server.url), "/objects")
        assert [found.key for found in store.list("ns/")] == ["ns/a", "ns/b", "ns/c"]
    assert len(server.requests) == 2


def test_a_list_that_would_not_end() -> None:
    page = msgspec.json.encode({"objects": [{"key": "ns/a", "size": 3}], "after": "ns/a"})
    with serving(lambda _: Reply(200, page)) as server:
        store = http_store(HttpClient(server.url))
        with pytest.raises(StorageUnavailableError, match="same page"):
            list(store.list("ns/"))
