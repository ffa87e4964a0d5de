"""The trees of a `vllm serve` that `exec` runs: found by its recipe, then in the plugin's hands."""

from __future__ import annotations

import logging
import os
from typing import Any

from aotcache import settings
from aotcache.cli import options
from aotcache.cli.pull import said
from aotcache.core.trust import SIGNED
from aotcache.engines import torch
from aotcache.engines.vllm.command import recipe_of_command
from aotcache.protocol.platform import Platform
from aotcache.protocol.v1.lookup import Miss
from aotcache.protocol.v1.recipes import RecipeLookup
from aotcache.sync.site import Site
from aotcache.sync.together import pull_recipe

logger = logging.getLogger("aotcache")


class ServeCache:
    """`fetch` brings what starts of the same words have used, as an init container would; in the
    command the plugin pulls what is still missing, and has the rest published."""

    name = "the cache"
    _site: Site
    _platform: Platform

    def __init__(
        self,
        command: tuple[str, ...],
        cache_root: str,
        platform_from: str | None,
        site: dict[str, Any],
        *,
        publishes: bool,
    ) -> None:
        self._command = command
        self._cache_root = os.path.abspath(cache_root)
        self._platform_from = platform_from
        self._options = site
        self._publishes = publishes

    def environment(self, base: dict[str, str]) -> dict[str, str]:
        given = options.variables_of(self._options)
        environment = {**base, **given, settings.CACHE_ROOT: self._cache_root}
        if not self._publishes:
            environment.pop(settings.PUBLISH, None)
        elif self._may_publish():
            environment[settings.PUBLISH] = "1"
        return environment

    def _may_publish(self) -> bool:
        site = getattr(self, "_site", None)
        return site is not None and (site.signer is not None or site.policy.mode != SIGNED)

    def connect(self) -> None:
        if self._platform_from is None:
            torch.check_python(self._command)
        self._platform = options.this_platform(self._platform_from)
        self._site = options.site_at(**self._options)

    def fetch(self) -> None:
        asked = RecipeLookup(
            recipe=recipe_of_command(self._command),
            platform=self._platform,
            namespace=str(self._options["namespace"]),
        )
        for result in pull_recipe(self._site, asked, self._cache_root):
            if isinstance(result, Miss):
                logger.info("miss (%s): %s", result.reason, result.message)
            else:
                logger.info("%s", said(result))

    def publish(self, wait: float) -> None:
        """What the plugin's publisher has not published yet: with this process a container ends."""
        if not self._may_publish():
            logger.info("nothing is published: this node has no signing key")
            return
        from aotcache.watch.watcher import Watcher

        watcher = Watcher(self._site, str(self._options["namespace"]), self._cache_root)
        watcher.once(wait)
        for where, why in watcher.failed.items():
            logger.warning("not published: %s: %s", where, why)
