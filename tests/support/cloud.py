"""Any of the servers that stand for cloud storage: what each has, tests need not tell apart."""

from __future__ import annotations

from typing import Protocol

import pytest


class CloudServer(Protocol):
    def env(self) -> dict[str, str]:
        """The standard environment that leads there, and nowhere else."""
        ...

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None: ...

    def fresh_url(self) -> str:
        """A storage URL below which nothing was ever stored."""
        ...
