"""Packs that are damaged in storage."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aotcache.storage import DirectStore, open_store
from support.fault_table import Table
from support.faults import Fleet, direct, last_line
from support.s3 import S3Server
from support.site import aotcache, run


def flipped(data: bytes) -> bytes:
    """One bit, in the middle."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.fixture
def storage_url(seaweedfs: S3Server) -> str:
    return seaweedfs.fresh_url()


@pytest.fixture
def store(
    seaweedfs: S3Server, storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DirectStore]:
    seaweedfs.use(monkeypatch)
    store = open_store(storage_url)
    yield store
    store.close()


@pytest.fixture
def fleet(seaweedfs: S3Server, storage_url: str, tmp_path: Path) -> Iterator[Fleet]:
    with run(tmp_path / "service", storage_url=storage_url, env=seaweedfs.env()) as service:
        yield Fleet(tmp_path, {"AOTCACHE_URL": service.url})


@pytest.mark.parametrize(
    ("damage", "what", "why"),
    [
        (flipped, "have a bit flipped", "is damaged in storage: .* `aotcache rm "),
        (halved, "are truncated", "is shorter than it should be: .*`aotcache reconcile`"),
    ],
)
def test_packs_are_damaged(
    fleet: Fleet,
    store: DirectStore,
    seaweedfs: S3Server,
    storage_url: str,
    table: Table,
    damage: Callable[[bytes], bytes],
    what: str,
    why: str,
) -> None:
    """Nothing of them is installed. Deleted and published again, all is well."""
    tree, cache = fleet.tree("tree"), fleet.cache("program")
    for one in (tree, cache):
        fleet.push(one)
    for pack in list(store.list("default/packs/")):
        data = store.get(pack.key)
        store.delete(pack.key)
        store.put(pack.key, damage(data))
    own = direct(seaweedfs, storage_url)
    for way in ({"AOTCACHE_TRANSFER": "proxy"}, own, {"AOTCACHE_TRANSFER": "presigned"}):
        pulled = fleet.pull(tree, check=False, **way)
        assert pulled.returncode == 1
        assert re.search(why, last_line(pulled)), pulled.stderr
    ran = fleet.folder / "ran"
    started = fleet.exec(cache, fleet.fresh(), 30, "touch", str(ran)).end()
    assert (started.returncode, ran.exists()) == (0, True)
    assert "cache program is not used: " in last_line(started)
    for one in (tree, cache):
        aotcache("rm", one.hash, "--yes", env=fleet.env)
        fleet.push(one)
    seconds = fleet.seconds_to_normal(tree)
    table.row(f"packs {what}: `pull`", pulled, seconds)
    table.row(f"packs {what}: `exec`", started, seconds)
