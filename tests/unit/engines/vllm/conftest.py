"""What an engine process knows, on a disk of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from aotcache.engines.vllm.facts import Facts
from aotcache.probe.platform import Detected
from support.small_vllm import small_vllm
from support.trees import H100, RECIPE

__all__ = ["small_vllm"]


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    return Facts(
        cache_root=str(tmp_path),
        part="rank_0_0-d0",
        expected_parts=(),
        recipe=RECIPE,
        detected=Detected(platform=H100, notes={}),
    )
