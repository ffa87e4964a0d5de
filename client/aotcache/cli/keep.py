"""`pin`, `unpin`, `gc`, `reconcile`: what is kept of what is stored."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from aotcache.cli import options, output
from aotcache.errors import RemoteError
from aotcache.protocol.v1.collect import (
    MAX_BYTES,
    MAX_DAYS,
    MAX_PER_RECIPE,
    Collect,
    Collected,
    Collection,
    Keep,
    Reconciled,
)
from aotcache.remote.index import Index

_POLL = 0.5  # seconds between two looks whether a collection has ended


def _of_hash(function: Callable[..., None]) -> click.Command:
    """A command about the stored trees of a hash."""
    for decorate in (
        options.access,
        options.as_json,
        options.platform_id,
        options.layout,
        click.argument("hash"),
    ):
        function = decorate(function)
    return click.command()(function)


@_of_hash
def pin(**about: Any) -> None:
    """Keep every stored tree of HASH: neither `gc` nor `rm` deletes it until it is unpinned."""
    _set_pinned(**about, pinned=True, said="pinned")


@_of_hash
def unpin(**about: Any) -> None:
    """Let every stored tree of HASH be deleted again."""
    _set_pinned(**about, pinned=False, said="not pinned any more:")


def _set_pinned(
    hash: str,
    layout: str | None,
    platform_id: str | None,
    as_json: bool,
    url: str,
    token_file: str | None,
    namespace: str,
    *,
    pinned: bool,
    said: str,
) -> None:
    index = options.index_at(url, token_file)
    hash = options.whole_hash(index, hash, namespace, layout)
    done = index.pin(
        hash,
        namespace=namespace,
        layout=layout,
        platform=options.whole_platform(index, platform_id, namespace, hash, layout),
        pinned=pinned,
    )
    if as_json:
        output.print_json(done)
        return
    for tree in done.trees:
        output.say(f"{said} {tree}")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--keep-days",
    type=click.IntRange(0, MAX_DAYS),
    help="Delete trees that were neither looked up nor published for so long; 0: none.",
)
@click.option(
    "--keep-bytes",
    type=click.IntRange(0, MAX_BYTES),
    help="Delete the least recently used trees while all take more; 0: none.",
)
@click.option(
    "--keep-per-recipe",
    type=click.IntRange(0, MAX_PER_RECIPE),
    help="Of each recipe, layout and platform keep the trees of so many starts, the last used "
    "ones; 0: all.",
)
@options.as_json
@options.access
def gc(
    dry_run: bool,
    keep_days: int | None,
    keep_bytes: int | None,
    keep_per_recipe: int | None,
    as_json: bool,
    url: str,
    token_file: str | None,
    namespace: str,  # noqa: ARG001 (of all namespaces: they share the bytes)
) -> None:
    """Delete trees that need not be kept, and packs that nothing refers to, in all namespaces.

    The service does so on schedule too, by the bounds that it was started with. Without one of the
    three options these count here as well. Pinned trees stay.
    """
    said = (keep_days, keep_bytes, keep_per_recipe)
    keep = None
    if any(value is not None for value in said):
        days, size, trees = (value or 0 for value in said)
        keep = Keep(days=days, bytes=size, per_recipe=trees)
    asked = Collect(keep=keep, dry_run=dry_run)
    done = _ended(options.index_at(url, token_file), asked).report
    assert done is not None
    if as_json:
        output.print_json(done)
    else:
        _say(done)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@options.as_json
@options.access
def reconcile(
    dry_run: bool,
    as_json: bool,
    url: str,
    token_file: str | None,
    namespace: str,  # noqa: ARG001 (of all namespaces: they are one storage)
) -> None:
    """Compare the index with object storage and make them the same, in all namespaces.

    Nothing that is served is deleted: what storage does not hold any more is not served from now
    on, what it holds beside is, and marks that it has lost are put again. Each `gc` begins so.
    """
    asked = Collect(dry_run=dry_run, reconcile_only=True)
    done = _ended(options.index_at(url, token_file), asked).reconciled
    assert done is not None
    if as_json:
        output.print_json(done)
    else:
        _say_reconciled(done)
        output.say(f"the index holds {done.trees} trees, {done.parts} parts")


def _ended(index: Index, asked: Collect) -> Collection:
    """Start it and wait for its end. Raises RemoteError where there is no report."""
    state = index.collect(asked)
    while state.running:
        time.sleep(_POLL)
        state = index.collection()
    if (state.reconciled if asked.reconcile_only else state.report) is None:
        why = state.error or "its process ended; the next one goes on"
        raise RemoteError(f"it did not come to its end: {why}")
    return state


def _say_reconciled(done: Reconciled) -> None:
    would = "would be " if done.dry_run else ""
    for what, keys in (("withdrawn", done.withdrawn), ("left as they are", done.skipped)):
        for key in keys:
            output.say(f"{would}{what}: {key}", err=True)
    output.say(
        f"manifests: {done.added} {would}added, {len(done.withdrawn)} {would}withdrawn, "
        f"{done.removed} {would}removed, {len(done.skipped)} that cannot be read or lack a pack; "
        f"{done.marked} lost marks {would}put again"
    )


def _say(done: Collected) -> None:
    _say_reconciled(done.reconciled)
    would = "would be " if done.dry_run else ""
    for tree in done.trees:
        output.say(
            f"{would}deleted: {tree.namespace}/{tree.layout}/{tree.hash} (platform "
            f"{tree.platform[:8]}, last used {output.when(tree.used)}): {tree.reason}"
        )
    more = done.deleted_trees - len(done.trees)
    if more > 0:
        output.say(f"… and {more} more")
    output.say(
        f"{done.deleted_trees} trees {would}deleted; {done.condemned_packs} packs "
        f"({output.size(done.condemned_bytes)}) {would}condemned, {done.deleted_packs} "
        f"({output.size(done.deleted_bytes)}) {would}deleted, {done.rewritten_packs} "
        f"{would}rewritten without {output.size(done.rewritten_bytes)} that nobody needs; "
        f"{output.size(done.kept_bytes)} are referred to"
    )
    for warning in done.warnings:
        output.say(f"warning: {warning}", err=True)
