"""Marks that released versions put into storage are read."""

from __future__ import annotations

from pathlib import Path

from aotcache.protocol.names import VLLM_AOT, TreeKey, quarantined_key
from aotcache.storage import open_store
from aotcache_service.ops.quarantine import Mark, read_mark
from unit.format.make_golden import GOLDEN


def test_quarantine(tmp_path: Path) -> None:
    """It had no `first` yet."""
    tree = TreeKey(namespace="default", layout=VLLM_AOT, hash="a7e3" * 16, platform="0" * 32)
    key = quarantined_key(tree, "shared", 2)
    store = open_store(tmp_path.as_uri())
    store.put(key, (GOLDEN / "marks" / "quarantined.json").read_bytes())
    expected = Mark(
        reason="3 nodes failed: no kernel image",
        since=1_700_000_000,
        content="c0" * 16,
        first=1,
    )
    assert read_mark(store, key) == expected
