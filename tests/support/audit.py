"""What stores announce before they change anything: `audited`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

_listening: list[list[tuple[str, str]]] = []
_hooked: list[bool] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event == "aotcache.storage":
        operation, key = map(str, arguments)
        for heard in _listening:
            heard.append((operation, key))


@pytest.fixture
def audited() -> Iterator[list[tuple[str, str]]]:
    """Every (operation, key) announced during the test. An audit hook cannot be taken back, so
    there is one, which hears nothing between tests."""
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked.append(True)
    heard: list[tuple[str, str]] = []
    _listening.append(heard)
    yield heard
    _listening.remove(heard)
