"""`push`, `pull`: trees between this machine and the store."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import Any

import click

from aotcache.cli import MISS, options, output
from aotcache.errors import (
    AotcacheError,
    LocalError,
    ObjectMissingError,
    PackError,
    StorageUnavailableError,
    UnavailableError,
    UsageError,
)
from aotcache.probe.trees import FoundTree, find_trees
from aotcache.protocol.v1.lookup import Lookup, Miss
from aotcache.protocol.v1.recipes import RecipeLookup
from aotcache.sync.identity import identify
from aotcache.sync.publish import Published, publish
from aotcache.sync.pull import Pulled
from aotcache.sync.settle import TreeLooks
from aotcache.sync.together import pull_recipe, pull_together


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
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
    trees = _choose(cache_root, hash, layout)
    platform = options.platform_of(platform_from)
    published: list[Published] = []
    failed: dict[str, str] = {}
    nothing: list[str] = []
    with output.progress(as_json) as progress:
        place = replace(options.site_at(**site), progress=progress)
        for tree in trees:
            try:
                looks = TreeLooks(tree)
                looks.wait(wait)
                empty = not looks.complete and not looks.waiting
                if everything and (empty or _only_pulled(tree, platform)):
                    nothing.append(tree.path)
                    continue
                published.append(_push(place, namespace, looks, platform, failed))
            except AotcacheError as error:
                # Of many trees, one that cannot be published does not keep the others here.
                if not everything:
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
            click.echo(f"nothing to publish of {path}", err=True)
        for result in published:
            click.echo(said_published(result))
            output.say_left_out(result.left_out, click.echo)
        for where, why in failed.items():
            click.echo(f"not published: {where}: {why}", err=True)
    if failed:
        raise SystemExit(1)


def _choose(cache_root: str, start: str | None, layout: str | None) -> list[FoundTree]:
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
    site: Any,
    namespace: str,
    looks: TreeLooks,
    platform: Any,
    failed: dict[str, str],
) -> Published:
    from aotcache.local.records import read_records

    tree, scan = looks.tree, looks.scan
    assert scan is not None
    for folder, why in looks.waiting.items():
        failed[f"{tree.path} {folder}"] = why
    if not looks.complete:
        why = "; ".join(f"{name}: {state.value}" for name, state in sorted(looks.states.items()))
        raise LocalError(f"{tree.path} holds nothing that is complete ({why or 'no files'})")
    identity = identify(tree, scan, read_records(tree.path), platform)
    return publish(site, namespace, tree, scan, identity, looks.complete)


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


@click.command()
@click.argument("hash", required=False)
@click.option(
    "--recipe-of",
    metavar="COMMAND",
    help="Instead of HASH: all trees that starts of this command used, as `vllm serve MODEL "
    "--tensor-parallel-size 2`, in one word.",
)
@options.layout
@options.cache_root
@options.platform
@click.option("--part", "parts", multiple=True, help="Only this part (again for more).")
@click.option(
    "--wait",
    default=-1.0,
    help="Seconds to wait for another process that is at the same tree.  [default: until it ends]",
)
@options.as_json
@options.transfer
def pull(
    hash: str | None,
    recipe_of: str | None,
    layout: str | None,
    cache_root: str,
    platform_from: str | None,
    parts: tuple[str, ...],
    wait: float,
    as_json: bool,
    namespace: str,
    **site: Any,
) -> None:
    """Put the stored tree HASH under the cache root, all its parts or those named.

    Files that are there already are kept. Exits with 3 if nothing is stored for this platform.
    """
    if (hash is None) == (recipe_of is None):
        raise UsageError("say what: `aotcache pull HASH`, or --recipe-of 'vllm serve …'")
    asked: Lookup | RecipeLookup
    if hash is not None:
        layout = options.layout_of(hash, layout)
        asked = Lookup(
            layout=layout,
            hash=hash,
            platform=options.this_platform(platform_from),
            namespace=namespace,
            parts=parts,
        )
    else:
        if parts:
            raise UsageError("--part goes with HASH; a recipe's trees are pulled whole")
        asked = _recipe(recipe_of or "", platform_from, namespace)
    results: list[Pulled | Miss] = []
    try:
        with output.progress(as_json) as progress:
            place = replace(options.site_at(**site), progress=progress)
            if isinstance(asked, Lookup):
                results += pull_together(place, asked, cache_root, lock_timeout=wait)
            else:
                for result in pull_recipe(place, asked, cache_root, lock_timeout=wait):
                    results.append(result)  # what came before an error is there
    except (PackError, ObjectMissingError) as error:
        name = f"{namespace}/{layout}/{hash}" if hash else f"a tree that {recipe_of!r} used"
        raise type(error)(
            f"{name} is damaged in storage: {error}. Nothing of it was installed; `aotcache "
            f"rm {hash or 'HASH'}`, and publish it again where it was compiled"
        ) from error
    finally:
        _print_results(results, one=hash is not None, as_json=as_json)
    if isinstance(results[-1], Miss):
        raise SystemExit(MISS)


def _recipe(command: str, platform_from: str | None, namespace: str) -> RecipeLookup:
    from aotcache.engines.vllm.command import recipe_of_command

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--recipe-of {command!r}: {error}") from error
    return RecipeLookup(
        recipe=recipe_of_command(words),
        platform=options.this_platform(platform_from),
        namespace=namespace,
    )


def _print_results(results: list[Pulled | Miss], *, one: bool, as_json: bool) -> None:
    if as_json and results:
        # Of one hash its own result; the tree that has to be beside it is in the lines.
        output.print_json(results[-1] if one else results)
        return
    for result in results:
        if isinstance(result, Miss):
            click.echo(f"miss ({result.reason}): {result.message}", err=True)
        else:
            click.echo(said(result))


def said(result: Pulled) -> str:
    signers = sorted({signer for part in result.parts for signer in part.signers})
    trust = "unsigned parts accepted" if result.unsigned else f"signed by {', '.join(signers)}"
    missing = f"; not stored yet: {', '.join(result.missing)}" if result.missing else ""
    files = sum(part.files for part in result.parts)
    done = (
        f"{result.installed} of {files} files installed in {result.path}, "
        f"{output.size(result.moved_bytes)} moved for {output.size(result.written_bytes)}"
        if result.installed
        else f"all {files} files are there already, in {result.path}"
    )
    if result.kept:
        done += f", {result.kept} that are not the stored ones were kept"
    return (
        f"{result.tree}: {', '.join(part.part for part in result.parts)}: {done}, "
        f"{result.seconds:.1f} s, {trust}{missing}"
    )
