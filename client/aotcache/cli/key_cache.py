"""The cache of a torch.compile program that `exec` runs: one tree under a key."""

from __future__ import annotations

import logging
import os
from typing import Any

from aotcache.cli import options
from aotcache.cli.pull import said
from aotcache.core.trust import SIGNED
from aotcache.engines import torch as engine
from aotcache.errors import InvalidNameError, UsageError
from aotcache.local.records import read_records, write_record
from aotcache.probe.platform import Detected, detect
from aotcache.probe.platform_file import load_platform
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import INDUCTOR, check_hash
from aotcache.protocol.v1.lookup import Lookup, Miss
from aotcache.sync import pull as pulling
from aotcache.sync.identity import identify
from aotcache.sync.publish import publish
from aotcache.sync.settle import TreeLooks
from aotcache.sync.site import Site

logger = logging.getLogger("aotcache")


class KeyCache:
    """Raises UsageError for a key that is none; the rest is found out by `connect`."""

    _site: Site
    _detected: Detected

    def __init__(
        self,
        key: str,
        cache_root: str,
        command: tuple[str, ...],
        platform_from: str | None,
        site: dict[str, Any],
    ) -> None:
        try:
            check_hash(INDUCTOR, key)
        except InvalidNameError as error:
            raise UsageError(f"--key: {error}") from error
        set_path = os.environ.get(engine.CACHE_DIR)
        path = os.path.abspath(set_path or tree_path(cache_root, INDUCTOR, key))
        self.name = f"cache {key}"
        self._tree = FoundTree(INDUCTOR, key, path)
        self._command = command
        self._platform_from = platform_from
        self._options = site
        if set_path:
            logger.info("%s is set: %s is %s", engine.CACHE_DIR, self.name, path)

    def environment(self, base: dict[str, str]) -> dict[str, str]:
        return engine.environment(self._tree.path, base) if _usable(self._tree.path) else base

    def connect(self) -> None:
        if trap := engine.trap(os.environ):
            logger.warning("%s", trap)
        if self._platform_from is None:
            engine.check_python(self._command)
        if self._platform_from in (None, "detect"):
            self._detected = detect()
        else:
            assert self._platform_from is not None
            self._detected = Detected(platform=load_platform(self._platform_from), notes={})
        self._site = options.site_at(**self._options)

    @property
    def _namespace(self) -> str:
        return str(self._options["namespace"])

    def fetch(self) -> None:
        lookup = Lookup(
            layout=INDUCTOR,
            hash=self._tree.hash,
            platform=self._detected.platform,
            namespace=self._namespace,
        )
        result = pulling.pull(self._site, lookup, self._tree.path)
        if isinstance(result, Miss):
            logger.info("miss (%s): %s", result.reason, result.message)
        else:
            logger.info("%s", said(result))

    def publish(self, wait: float) -> None:
        if self._site.signer is None and self._site.policy.mode == SIGNED:
            logger.info("%s is not published: this node has no signing key", self.name)
            return
        if not os.path.isdir(self._tree.path):
            logger.info("%s compiled nothing: there is nothing to publish", self._tree.hash)
            return
        write_record(self._tree.path, engine.record(self._tree.hash, self._detected))
        looks = TreeLooks(self._tree)
        scan = looks.wait(wait)
        for folder, why in looks.waiting.items():
            logger.warning("%s %s is not published: %s", self._tree.hash, folder, why)
        if not looks.complete:
            return
        identity = identify(self._tree, scan, read_records(self._tree.path))
        result = publish(self._site, self._namespace, self._tree, scan, identity, looks.complete)
        for left in result.left_out:
            logger.warning("left out: %s: %s", left.path, left.reason)
        for part in result.parts:
            logger.info(
                "%s %s %s, %d bytes uploaded",
                result.tree,
                part.part,
                part.status,
                result.uploaded_bytes,
            )


def _usable(path: str) -> bool:
    """Whether the program can write its cache there. If not it runs with its own default."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError:
        return False
    return os.access(path, os.W_OK | os.X_OK)
