"""The service in this process, with its embedded default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from aotcache_service.http.app import create_app
from aotcache_service.http.context import Context
from aotcache_service.settings import ServiceSettings


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(data_dir=tmp_path / "data")


@pytest.fixture
def client(settings: ServiceSettings) -> Iterator[TestClient]:
    app = create_app(settings)
    address = "http://127.0.0.1:8750"
    with TestClient(app, address, raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def context(client: TestClient) -> Context:
    found = client.app.context  # type: ignore[attr-defined]
    assert isinstance(found, Context)
    return found
