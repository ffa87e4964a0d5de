"""A running service of its own process, and a site that publishes to it and pulls from it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aotcache.core.trust import TrustPolicy
from aotcache.local.records import read_records
from aotcache.net.http import HttpClient
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import DEFAULT_NAMESPACE
from aotcache.protocol.platform import Platform
from aotcache.protocol.v1.lookup import Lookup, Miss
from aotcache.remote.index import Index
from aotcache.storage import http_store, open_store
from aotcache.sync.identity import identify
from aotcache.sync.publish import publish
from aotcache.sync.published import Published
from aotcache.sync.pull import Pulled, pull
from aotcache.sync.settle import TreeLooks
from aotcache.sync.site import Site

AOTCACHE = [sys.executable, "-m", "aotcache"]
LIFETIME = "3600"  # seconds after which a service that a killed test run left behind ends itself


@dataclass
class Service:
    """`aotcache serve` as a child process. `url` changes with each start, unless there is a
    `port`."""

    data: Path
    storage_url: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    url: str = ""

    @property
    def log(self) -> Path:
        """What it has said since its last start."""
        return Path(f"{self.data}.log")

    def start(self) -> None:
        words = [*(self.command or AOTCACHE), "serve", "--data-dir", str(self.data)]
        words += ["--port", str(self.port)]
        if self.storage_url:
            words += ["--storage-url", self.storage_url]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["timeout", "-k", "5", LIFETIME, *words],
                env={**os.environ, **self.env},
                stdout=log,
                stderr=log,
            )
            end = time.monotonic() + 60
            while not (found := re.search(r"listening on (http://\S+)", self.log.read_text())):
                text = self.log.read_text()
                assert self.process.poll() is None, text[-3000:]
                assert time.monotonic() < end, text[-3000:]
                time.sleep(0.02)
        self.url = found[1]

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            self.process.kill()
            self.process.wait()
            self.process = None

    def kill(self) -> None:
        """With -9, and what it runs under."""
        assert self.process is not None
        (child,) = (
            Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        )
        os.kill(int(child), signal.SIGKILL)
        self.process.wait()

    def site(self, policy: TrustPolicy | None = None, **more: Any) -> Site:
        client = HttpClient(self.url, retries=1)
        return Site(
            index=Index(client),
            store=open_store(self.storage_url) if self.storage_url else http_store(client),
            policy=policy or TrustPolicy("unsigned"),
            **more,
        )


@contextmanager
def run(data: Path, **settings: Any) -> Iterator[Service]:
    found = Service(data, **settings)
    found.start()
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """The service on its embedded default."""
    with run(tmp_path / "service") as found:
        yield found


def publish_tree(
    site: Site,
    tree: FoundTree,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    platform: Platform | None = None,
) -> Published:
    """Publish all that is complete of a tree."""
    looks = TreeLooks(tree, quiet=0.0)
    scan = looks.look()
    identity = identify(tree, scan, read_records(tree.path), platform)
    return publish(site, namespace, tree, scan, identity, looks.complete)


def pull_tree(
    site: Site, tree: FoundTree, platform: Platform, cache_root: Path, *parts: str
) -> Pulled | Miss:
    """Pull a tree, or some parts of it, to its place under another cache root."""
    lookup = Lookup(layout=tree.layout, hash=tree.hash, platform=platform, parts=parts)
    return pull(site, lookup, tree_path(str(cache_root), tree.layout, tree.hash))


def aotcache(
    *words: str,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    command: Sequence[str] = AOTCACHE,
) -> subprocess.CompletedProcess[str]:
    """Run the CLI. `check`: it has to exit with 0."""
    done = subprocess.run(
        [*command, *words],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stderr}"
    return done


def printed(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)
