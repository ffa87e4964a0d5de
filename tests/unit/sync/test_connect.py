"""How packs travel, by what a node is told. Nothing is asked of anybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from aotcache.errors import UsageError
from aotcache.net.http import HttpClient
from aotcache.storage.files import FileStore
from aotcache.storage.http import HttpStore
from aotcache.storage.presigned import PresignedStore
from aotcache.sync.connect import connect_by, store_of

URL = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("transfer", "own", "kind"),
    [
        ("auto", True, FileStore),
        ("auto", False, PresignedStore),
        ("direct", True, FileStore),
        ("presigned", True, PresignedStore),
        ("presigned", False, PresignedStore),
        ("proxy", True, HttpStore),
        ("proxy", False, HttpStore),
    ],
)
def test_ways(transfer: str, own: bool, kind: type, tmp_path: Path) -> None:
    store = store_of(HttpClient(URL), tmp_path.as_uri() if own else None, transfer)
    assert type(store) is kind


@pytest.mark.parametrize("transfer", ["direct", "", "PROXY", "s3"])
def test_what_is_no_way(transfer: str) -> None:
    with pytest.raises(UsageError, match="AOTCACHE_TRANSFER"):
        store_of(HttpClient(URL), None, transfer)


def test_by_environment(tmp_path: Path) -> None:
    """As the plugin's processes connect."""
    environ = {
        "AOTCACHE_URL": URL,
        "AOTCACHE_TRUST": "unsigned",
        "AOTCACHE_STORAGE_URL": tmp_path.as_uri(),
    }
    assert type(connect_by(environ).store) is FileStore
    assert type(connect_by({**environ, "AOTCACHE_TRANSFER": ""}).store) is FileStore
    assert type(connect_by({**environ, "AOTCACHE_TRANSFER": "proxy"}).store) is HttpStore
    with pytest.raises(UsageError, match="teleport"):
        connect_by({**environ, "AOTCACHE_TRANSFER": "teleport"})
