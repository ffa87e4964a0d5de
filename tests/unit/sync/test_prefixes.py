"""Prefixes: whoever comes first gives one, and nobody waits in vain."""

from __future__ import annotations

import pytest

from aotcache.core.framing import Prefix
from aotcache.errors import PackError
from aotcache.sync.prefixes import Prefixes

PREFIX = Prefix(b"the bytes of a model")


def test_one_that_is_given_while_it_is_read() -> None:
    prefixes = Prefixes()

    def read(_digest: str) -> Prefix:
        prefixes.give(PREFIX)
        return Prefix(b"the bytes of a model")

    assert prefixes.get(PREFIX.digest, read) is PREFIX


def test_one_that_is_given_while_it_cannot_be_read() -> None:
    prefixes = Prefixes()

    def read(_digest: str) -> Prefix:
        prefixes.give(PREFIX)
        raise PackError("damaged")

    assert prefixes.get(PREFIX.digest, read) is PREFIX


def test_one_that_cannot_be_read_is_an_error_for_all() -> None:
    prefixes = Prefixes()

    def read(_digest: str) -> Prefix:
        raise PackError("damaged")

    for _ in range(2):
        with pytest.raises(PackError, match="damaged"):
            prefixes.get(PREFIX.digest, read)
