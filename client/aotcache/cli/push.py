"""`push`: trees of this machine into the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from aotcache.cli import options, output
from aotcache.errors import (
    AotcacheError,
    LocalError,
    StorageUnavailableError,
    UnavailableError,
    UsageError,
)
from aotcache.probe.trees import FoundTree, find_trees
from aotcache.sync.connect import trust_marks
from aotcache.sync.published import Published
from aotcache.sync.unchanged import see, still_stored

if TYPE_CHECKING:
    from aotcache.sync.settle import TreeLooks
    from aotcache.sync.site import Site


class PushReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `push --json` prints. not_published: place and reason of all that was not. nothing:
    trees of which there is nothing to publish: they were pulled, or hold only what vLLM leaves
    beside its AOT trees."""

    published: tuple[Published, ...]
    not_published: dict[str, str]
    nothing: tuple[str, ...]


@click.command()
@click.argument("hash", required=False)
@click.option("--all", "everything", is_flag=True, help="Every tree under the cache root.")
@options.layout
@options.cache_root
@options.platform
@click.option(
    "--wait",
    default=30.0,
    show_default=True,
    help="Seconds to wait for a tree that is still being written.",
)
@options.as_json
@options.transfer
def push(
    hash: str | None,
    everything: bool,
    layout: str | None,
    cache_root: str,
    platform_from: str | None,
    wait: float,
    as_json: bool,
    namespace: str,
    **site: Any,
) -> None:
    """Publish the tree HASH (or the start of its name), or --all of them, from the cache root.

    Only what is new is uploaded, and only parts that are complete. The engine's record beside the
    tree says which platform it was compiled for; without one say --platform.
    """
    if (hash is None) == (not everything):
        raise UsageError("say which tree: `aotcache push HASH`, or --all")
    trees = choose(cache_root, hash, layout)
    platform = options.platform_of(platform_from)
    index = options.index_at(site["url"], site["token_file"])
    trust = trust_marks(site["trust"], site["trusted_keys"], site["signing_key"])
    where = (index.url, namespace, *trust, platform.id if platform else "")
    place: Site | None = None
    published: list[Published] = []
    failed: dict[str, str] = {}
    nothing: list[str] = []
    with output.progress(as_json) as progress:
        for tree in trees:
            try:
                same = still_stored(index, where, namespace, tree)
                if same is not None:
                    published.append(same)
                    continue
                # What follows is imported for a tree that has changed.
                from aotcache.sync.settle import TreeLooks

                place = place or options.site_at(progress, **site)
                looks = TreeLooks(tree)
                looks.wait(wait)
                empty = not looks.complete and not looks.waiting
                if everything and (empty or _only_pulled(tree, platform)):
                    nothing.append(tree.path)
                    continue
                published.append(_push(place, where, namespace, looks, platform, failed))
            except AotcacheError as error:
                # Of many trees, one that cannot be published does not keep the others here.
                if not everything or (place is None and isinstance(error, UsageError)):
                    raise
                failed[tree.path] = str(error)
                if isinstance(error, (UnavailableError, StorageUnavailableError)):
                    break  # nor would the next ones get through
    if as_json:
        report = PushReport(
            published=tuple(published), not_published=failed, nothing=tuple(nothing)
        )
        output.print_json(report)
    else:
        for path in nothing:
            output.say(f"nothing to publish of {path}", err=True)
        for result in published:
            output.say(said_published(result))
            output.say_left_out(result.left_out, output.say)
        for what, why in failed.items():
            output.say(f"not published: {what}: {why}", err=True)
    if failed:
        raise SystemExit(1)


def choose(cache_root: str, start: str | None, layout: str | None) -> list[FoundTree]:
    """The tree whose hash begins so, or all there are. Raises UsageError where there is none, or
    more than one."""
    trees = [tree for tree in find_trees(cache_root) if layout in (None, tree.layout)]
    if start is not None:
        exact = [tree for tree in trees if tree.hash == start]
        trees = exact or [tree for tree in trees if tree.hash.startswith(start)]
        if len(trees) > 1:
            names = ", ".join(f"{tree.layout}/{tree.hash}" for tree in trees[:5])
            raise UsageError(f"{start!r} is the start of {len(trees)} trees: {names}")
    if not trees:
        what = f"a tree {start!r}" if start else "any tree"
        raise UsageError(f"there is not {what} under {cache_root}; is --cache-root right?")
    return trees


def _only_pulled(tree: FoundTree, platform: Any) -> bool:
    """Whether a tree came from elsewhere: no engine wrote a record, and a pull left its mark."""
    from aotcache.local.records import read_records
    from aotcache.local.state import TreeState

    return platform is None and not read_records(tree.path) and bool(TreeState(tree.path).targets())


def _push(
    site: Site,
    where: tuple[str, ...],
    namespace: str,
    looks: TreeLooks,
    platform: Any,
    failed: dict[str, str],
) -> Published:
    from aotcache.local.records import read_records
    from aotcache.sync.identity import identify
    from aotcache.sync.publish import publish

    tree, scan = looks.tree, looks.scan
    assert scan is not None
    for folder, why in looks.waiting.items():
        failed[f"{tree.path} {folder}"] = why
    if not looks.complete:
        why = "; ".join(f"{name}: {state.value}" for name, state in sorted(looks.states.items()))
        raise LocalError(f"{tree.path} holds nothing that is complete ({why or 'no files'})")
    identity = identify(tree, scan, read_records(tree.path), platform)
    result = publish(site, namespace, tree, scan, identity, looks.complete)
    if not looks.waiting and not result.left_out:
        see(where, scan, result)
    return result


def said_published(result: Published) -> str:
    parts = ", ".join(
        f"{part.part} {part.status}"
        + (f" (generation {part.generation}, {part.new_files} new files)" if part.new_files else "")
        for part in result.parts
    )
    return (
        f"{result.tree}: {parts or 'nothing complete'}; {output.size(result.uploaded_bytes)} "
        f"uploaded of {output.size(result.raw_bytes)} in {result.seconds:.1f} s"
    )
