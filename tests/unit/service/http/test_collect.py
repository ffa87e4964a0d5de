"""Collections that somebody asks for: how they ended is noted, and what cannot be kept refused."""

from __future__ import annotations

import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from aotcache.errors import StorageUnavailableError, UsageError
from aotcache.protocol.v1.collect import Keep
from aotcache_service.http import collector
from aotcache_service.http.context import Context
from aotcache_service.index import audit
from support.indexed import publish


def ended(client: TestClient, context: Context, **asked: object) -> str:
    """Ask for one, and what the audit says of it in the end."""
    assert client.post("/v1/collect", json=asked).status_code == 202
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with context.database.read() as db:
            (row,) = audit.listed(db, None, limit=1)
        if row.outcome != audit.BEGUN:
            return f"{row.action}: {row.outcome}"
        time.sleep(0.01)
    raise AssertionError("it did not end")


def test_the_audit_says_how_it_ended(
    client: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(context.database, context.store)
    keep = {"days": 1}
    for asked, said in (
        ({"reconcile_only": True}, "reconcile: done: 0 manifests added, 0 withdrawn"),
        ({"keep": keep, "dry_run": True}, "collect: done: 1 trees would be deleted"),
        ({"keep": keep}, "collect: done: 1 trees deleted"),
    ):
        assert ended(client, context, **asked) == said

    def fails(*_: Any, **__: Any) -> None:
        raise StorageUnavailableError("no storage today")

    monkeypatch.setattr(collector, "collect", fails)
    assert ended(client, context) == "collect: failed: no storage today"
    monkeypatch.setattr(collector, "collect", lambda *_, **__: 1 // 0)
    assert ended(client, context) == "collect: failed: the service has a fault; its log tells more"


@pytest.mark.parametrize(
    "keep", [{"days": 36_501}, {"bytes": 1 << 63}, {"per_recipe": 1 << 31}, {"days": -1}]
)
def test_what_is_out_of_bounds_is_refused(
    client: TestClient, context: Context, keep: dict[str, int]
) -> None:
    with pytest.raises(UsageError, match="to keep: 0 to "):
        Keep(**keep)
    refused = client.post("/v1/collect", json={"keep": keep})
    assert refused.status_code == 400, refused.text
    with context.database.read() as db:
        assert audit.listed(db, None, limit=1) == []
    Keep(days=36_500, bytes=(1 << 63) - 1)
