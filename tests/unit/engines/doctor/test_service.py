"""The service and the storage as they are met: absent, hanging, something else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from aotcache.engines.doctor.findings import NOTE, OK, PROBLEM, Finding, Setup
from aotcache.engines.doctor.service import check_service, check_storage
from support.http import Reply, serving


def _setup(url: str | None = None, **more: Any) -> Setup:
    environ = more.pop("environ", {})
    if url is not None:
        environ = {"AOTCACHE_URL": url, **environ}
    return Setup(environ=environ, cache_root="/x", namespace="default", url=url, **more)


def _problems(findings: Iterable[Finding]) -> list[str]:
    return [finding.found for finding in findings if finding.level == PROBLEM]


def test_no_url() -> None:
    (found,) = _problems(check_service(_setup()))
    assert "AOTCACHE_URL is not set" in found


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://user:hunter2@host"])
def test_a_url_that_leads_nowhere(url: str) -> None:
    (found,) = _problems(check_service(_setup(url)))
    assert "hunter2" not in found


def test_something_else_answers() -> None:
    with serving(lambda _: Reply(body=b"<html>")) as server:
        (found,) = _problems(check_service(_setup(server.url)))
    assert "check the URL" in found


def test_a_token_that_is_refused() -> None:
    body = b'{"code": "unauthorized", "message": "no such token"}'
    with serving(lambda _: Reply(401, body)) as server:
        (found,) = _problems(check_service(_setup(server.url)))
        assert found == "no such token; no token is named (AOTCACHE_TOKEN)"
        (found,) = _problems(
            check_service(_setup(server.url, environ={"AOTCACHE_TOKEN": "hunter2"}))
        )
        assert found == "no such token"


def test_a_service_of_another_version_that_is_empty() -> None:
    def answer(request: Any) -> Reply:
        ready = b'{"status": "ready", "version": "99.0", "api": [1], "later": 1}'
        return Reply(body=ready if request.path == "/readyz" else b'{"trees": []}')

    with serving(answer) as server:
        findings = list(check_service(_setup(server.url)))
    assert [finding.level for finding in findings] == [OK, NOTE, NOTE]
    assert "99.0" in findings[1].found
    assert "one minor version apart" in findings[1].remedy
    assert "nothing is stored" in findings[2].found


def test_a_service_that_does_not_say_its_version() -> None:
    def answer(request: Any) -> Reply:
        ready = b'{"status": "ready"}'
        return Reply(body=ready if request.path == "/readyz" else b'{"trees": []}')

    with serving(answer) as server:
        findings = list(check_service(_setup(server.url)))
    assert not _problems(findings)
    assert "version unknown" in findings[0].found


def test_a_service_that_does_not_speak_this_api_any_more() -> None:
    body = b'{"code": "version", "message": "so upgrade the client"}'
    with serving(lambda _: Reply(404, body)) as server:
        (found,) = _problems(check_service(_setup(server.url)))
    assert found == "so upgrade the client"


def test_a_service_that_hangs() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        (found,) = _problems(check_service(_setup(url)))
    assert "no answer" in found


def test_a_url_that_only_the_command_line_knows() -> None:
    setup = Setup(environ={}, cache_root="/x", namespace="default", url="http://127.0.0.1:1")
    findings = list(check_service(setup))
    assert "an engine started from here does not know it" in findings[0].found


@pytest.mark.parametrize(("value", "count"), [("1", 1), ("0", 0), ("", 0)])
def test_switched_off(value: str, count: int) -> None:
    said = _problems(check_service(_setup(environ={"AOTCACHE_DISABLE": value})))
    assert sum("AOTCACHE_DISABLE" in found for found in said) == count


@pytest.mark.parametrize("name", ["AOTCACHE_DEADLINE", "AOTCACHE_WAIT"])
@pytest.mark.parametrize(
    ("value", "bad"),
    [("30", False), ("0.5", False), ("0", False), ("", False)]
    + [(value, True) for value in ("30s", "-1", "nan", "inf")],
)
def test_seconds(name: str, value: str, bad: bool) -> None:
    said = _problems(check_service(_setup(environ={name: value})))
    assert any(name in found for found in said) == bad


def test_storage_through_the_service() -> None:
    (finding,) = check_storage(_setup())
    assert finding.level == OK


def test_a_storage_directory(tmp_path: Path) -> None:
    (finding,) = check_storage(_setup(storage_url=f"file://{tmp_path}"))
    assert finding.level == OK
    missing = tmp_path / "missing"
    (found,) = _problems(check_storage(_setup(storage_url=f"file://{missing}")))
    assert "is not there" in found
    assert not os.path.exists(missing)


@pytest.mark.parametrize("url", ["nonsense", "http://host", "s3://", "file:relative", "file://["])
def test_a_storage_url_that_is_none(url: str) -> None:
    assert len(_problems(check_storage(_setup(storage_url=url)))) == 1


@pytest.mark.parametrize(
    ("transfer", "found"), [("direct", "no storage is named"), ("presigned", "signs no URLs")]
)
def test_a_transfer_that_cannot_be(transfer: str, found: str) -> None:
    with serving(lambda _: Reply(body=b'{"seconds": 0}')) as server:
        (said,) = _problems(check_storage(_setup(server.url, transfer=transfer)))
    assert found in said


def test_each_way_that_packs_may_travel() -> None:
    with serving(lambda _: Reply(body=b'{"seconds": 300}')) as server:
        for transfer in ("auto", "proxy", "presigned"):
            (finding,) = check_storage(_setup(server.url, transfer=transfer))
            assert finding.level == OK
