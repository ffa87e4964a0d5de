"""Pull what belongs together: the two trees of vLLM's older loader, and all trees of a recipe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from aotcache.probe.trees import tree_path
from aotcache.protocol.names import SHARED, VLLM_AOT, VLLM_JIT
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.lookup import PART_MISSING, Hit, Lookup, Miss
from aotcache.sync.parts import several_devices
from aotcache.sync.pull import Pulled, pull
from aotcache.sync.site import Site

if TYPE_CHECKING:
    from aotcache.protocol.v1.recipes import RecipeLookup

logger = logging.getLogger(__name__)


def pull_together(
    site: Site,
    asked: Lookup,
    cache_root: str,
    *,
    lock_timeout: float = -1,
    recipe: Recipe | None = None,
    found: Callable[[], Hit | Miss] | None = None,
) -> list[Pulled | Miss]:
    """Pull a tree under a cache root, after those that it cannot be loaded without: a `vllm-aot`
    tree that was not saved as one artifact leads to a `vllm-jit` tree. Its own result comes last; a
    Miss of the other is its own, as it could not be loaded. recipe, found: as for `pull`. Raises
    what `pull` raises."""
    results: list[Pulled | Miss] = []

    def beside(hit: Hit) -> Miss | None:
        ranks = tuple(part for part in asked.parts if part != SHARED)
        if asked.layout != VLLM_AOT or (asked.parts and not ranks):
            return None
        for used in hit.trees:
            if used.layout == VLLM_JIT:
                lookup = Lookup(
                    layout=used.layout,
                    hash=used.hash,
                    platform=asked.platform,
                    namespace=asked.namespace,
                    parts=ranks,
                )
                path = tree_path(cache_root, used.layout, used.hash)
                result = pull(site, lookup, path, lock_timeout=lock_timeout, recipe=recipe)
                if isinstance(result, Miss):
                    return result
                results.append(result)
        return None

    path = tree_path(cache_root, asked.layout, asked.hash)
    own = pull(
        site,
        asked,
        path,
        lock_timeout=lock_timeout,
        recipe=recipe,
        beside=beside,
        found=found,
    )
    results.append(own)
    return results


def pull_recipe(
    site: Site,
    asked: RecipeLookup,
    cache_root: str,
    *,
    part: str | None = None,
    lock_timeout: float = -1,
    recipe: Recipe | None = None,
) -> Iterator[Pulled | Miss]:
    """Pull the trees that the last published start of a recipe used: of each, all parts but those
    of ranks that were compiled for several devices, or the shared one and a rank's. Each result as
    it comes, and then what `pull` raises, if it does: the trees before it are there. recipe: as for
    `pull`. One Miss alone: there is none."""
    answer = site.index.lookup_recipe(asked)
    if isinstance(answer, Miss):
        yield answer
        return
    for hit in _last_start(answer.trees):
        stored = [found.part for found in hit.parts]
        if part is not None and part not in stored:
            message = f"{hit.namespace}/{hit.layout}/{hit.hash[:12]}: stored, but not {part}"
            yield Miss(reason=PART_MISSING, message=message, missing=(part,))
            continue
        if part is None:
            unclear = [name for names in several_devices(stored).values() for name in names]
            wanted = [name for name in stored if name not in unclear]
            if unclear:
                which = f"{hit.layout}/{hit.hash[:12]} {', '.join(unclear)}"
                logger.warning("compiled for several devices, left to the engine: %s", which)
            if not wanted:
                message = f"{which}: compiled for several devices: say which with HASH and --part"
                yield Miss(reason=PART_MISSING, message=message, available=tuple(stored))
                continue
        else:
            wanted = [name for name in stored if name in (SHARED, part)]
        lookup = Lookup(
            layout=hit.layout,
            hash=hit.hash,
            platform=asked.platform,
            namespace=asked.namespace,
            parts=tuple(wanted),
        )
        path = tree_path(cache_root, hit.layout, hit.hash)
        yield pull(site, lookup, path, lock_timeout=lock_timeout, recipe=recipe)


def _last_start(hits: Sequence[Hit]) -> list[Hit]:
    """Of all trees of the recipe those of its newest start: the newest, those it names, and those
    that name it. Others are of settings that a recipe does not tell apart, or of earlier starts
    that shared one of these. The older loader's second tree comes before what leads to it."""
    if not hits:
        return []
    newest = (hits[0].layout, hits[0].hash)
    names = {newest, *((tree.layout, tree.hash) for tree in hits[0].trees)}
    chosen = [
        hit
        for hit in hits
        if (hit.layout, hit.hash) in names
        or any((tree.layout, tree.hash) == newest for tree in hit.trees)
    ]
    return sorted(chosen, key=lambda hit: hit.layout != VLLM_JIT)
