"""Real vLLM with the plugin: a cold start whose trees were published, and its service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from aotcache.local.node import be_publisher
from aotcache.protocol.v1.trees import TreeDetail
from support.process import eventually
from support.site import Service, run
from support.vllm import Started, start


@dataclass(frozen=True)
class PublishedStart:
    """A cold start, the service that its trees were published to, and the tree's hash."""

    service: Service
    cache_root: Path
    started: Started
    hash: str

    @property
    def env(self) -> Mapping[str, str]:
        """Of a node that only pulls, whose hash is the same."""
        return plugin_env(self.service, headers=True)

    def fresh(self, cache_root: Path, **options: object) -> Started:
        """A start of such a node. Its list of inspected models is taken over: ten seconds less."""
        return start(cache_root, inspected=self.cache_root, **{"env": self.env, **options})

    def detail(self) -> TreeDetail:
        (found,) = self.service.site().index.tree(self.hash).trees
        return found


def plugin_env(
    service: Service, *, publishes: bool = False, headers: bool = False
) -> Mapping[str, str]:
    """The two lines, and that nothing is signed. headers: as torch has it by default, C++ headers
    are precompiled, outside every tree; it takes 18 seconds, and is part of the hash."""
    return {
        "AOTCACHE_URL": service.url,
        "AOTCACHE_TRUST": "unsigned",
        "AOTCACHE_PUBLISH": str(int(publishes)),
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": str(int(headers)),
    }


def hash_of(model_path: str) -> str:
    return Path(model_path).parts[-3]


def cold_start(
    service: Service, cache_root: Path, *, headers: bool = False, **options: object
) -> Started:
    """A start that publishes, when its publisher has ended: all that it saved is stored."""
    env = plugin_env(service, publishes=True, headers=headers)
    started = start(cache_root, env=env, **options)
    assert started.exit_code == 0, started.log[-5000:]
    for root in sorted(set(map(root_of, started.saved))):
        published(root)
    return started


def published(cache_root: Path) -> None:
    """Wait for its publisher, which ends with the last engine, when nothing is left to do."""
    eventually(
        lambda: True if be_publisher(str(cache_root)) is not None else None,
        (cache_root / ".aotcache" / "publisher.log").read_text(),
    )


def root_of(model_path: str) -> Path:
    return Path(model_path).parents[4]


@pytest.fixture(scope="session")
def vllm_published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PublishedStart]:
    base = tmp_path_factory.mktemp("vllm-published")
    with run(base / "service") as service:
        started = cold_start(service, base / "cold", headers=True)
        yield PublishedStart(service, base / "cold", started, hash_of(started.saved[0]))
