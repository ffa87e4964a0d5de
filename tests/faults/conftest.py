"""Faults: what nodes see, what is lost (nothing), and how long it takes; see docs/faults.md."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def only_own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node has those that a test gives it."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
