"""A check in the eyes of a user who is not root."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from aotcache.engines.doctor.findings import Finding

NOBODY = 65534


@pytest.fixture
def as_another_user() -> Callable[..., list[Finding]]:
    """Runs a check in a child process that is nobody, where this is root; else as the user that
    this is, to whom modes apply anyway."""
    return _as_another_user


def _as_another_user(check: Callable[..., Iterable[Finding]], *arguments: Any) -> list[Finding]:
    if os.geteuid() != 0:
        return list(check(*arguments))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(list(check(*arguments)), pipe)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    findings: list[Finding] = pickle.loads(data)
    return findings
