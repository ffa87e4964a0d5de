"""Small trees of the right shape, written in a moment, and a site whose service is in this process.

For what does not depend on the files' content. Trees of real content are in `support.trees`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aotcache.core.trust import TrustPolicy
from aotcache.local.records import write_record
from aotcache.net.http import HttpClient
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import VLLM_AOT, rank_part
from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import EngineRecord
from aotcache.protocol.v1.publish import OpenSession, Session
from aotcache.remote.index import Index
from aotcache.storage import ObjectStore, open_store
from aotcache.sync.site import Site
from aotcache_service.settings import ServiceSettings
from support.service import run_service
from support.trees import H100, RECIPE, model_of

LONG_AGO = 1_700_000_000
KERNEL = "KERNELKERNELKERNELKERNEL"


def small_tree(
    cache_root: Path,
    *,
    name: str = "small",
    ranks: Sequence[int] = (0,),
    cpp: bool = False,
    records: bool = True,
    platform: Platform = H100,
    recipe: Recipe | None = RECIPE,
    model_bytes: int = 100_000,
) -> FoundTree:
    """A vllm-aot tree; all its files were written long ago."""
    tree_hash = hashlib.sha256(name.encode()).hexdigest()
    path = Path(tree_path(str(cache_root), VLLM_AOT, tree_hash))
    add(path, "inductor_cache/ab/cabcdef.py", b"# code\n" * 50)
    add(path, "inductor_cache/fxgraph/cd/fgraph/agraph", random.Random(1).randbytes(2000))
    add(path, "inductor_cache/aotautograd/ef/agraph", random.Random(2).randbytes(1000))
    add(path, "inductor_cache/locks/x.lock", b"")
    if cpp:
        add(path, "inductor_cache/gh/cghijk.main.so", random.Random(3).randbytes(3000), 0o755)
    for rank in ranks:
        kernel = f"inductor_cache/triton/{rank}/{KERNEL}"
        add(path, f"{kernel}/k.cubin", random.Random(4).randbytes(20_000))
        children = {"child_paths": {"k.cubin": f"{path}/{kernel}/k.cubin"}}
        add(path, f"{kernel}/__grp__k.json", json.dumps(children).encode())
        add(path, f"rank_{rank}_0/model", model_of(rank, model_bytes))
        if records:
            record(path, rank_part(rank, 0, rank), platform=platform, recipe=recipe)
    return FoundTree(VLLM_AOT, tree_hash, str(path))


def record(path: Path, part: str, **about: Any) -> None:
    """An engine record beside the tree."""
    about = {"platform": H100, "recipe": RECIPE, **about}
    write_record(str(path), EngineRecord(layout=VLLM_AOT, hash=path.name, part=part, **about))


def add(tree: Path | str, path: str, content: bytes, mode: int = 0o644) -> Path:
    """A file of a tree, last written long ago."""
    file = Path(tree) / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    file.chmod(mode)
    os.utime(file, (LONG_AGO, LONG_AGO))
    return file


class CountedIndex(Index):
    """Counts the publish sessions that it opens."""

    sessions = 0

    def open_session(self, asked: OpenSession) -> Session:
        self.sessions += 1
        return super().open_session(asked)


@dataclass(frozen=True)
class Here:
    """A service in this process, and its storage in a directory."""

    url: str
    storage_url: str

    @property
    def store(self) -> ObjectStore:
        return open_store(self.storage_url)

    def site(
        self, policy: TrustPolicy | None = None, store: ObjectStore | None = None, **more: Any
    ) -> Site:
        return Site(
            index=CountedIndex(HttpClient(self.url, retries=0)),
            store=store or self.store,
            policy=policy or TrustPolicy("unsigned"),
            **more,
        )


@contextmanager
def service_here(data: Path) -> Iterator[Here]:
    data.mkdir(exist_ok=True)
    settings = ServiceSettings(data_dir=data)
    with run_service(settings) as url:
        yield Here(url, settings.storage_url)
