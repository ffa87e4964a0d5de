"""`lookup --explain` and `misses`: why what is looked for is not stored."""

from __future__ import annotations

import click

from aotcache.cli import options, output
from aotcache.local.records import read_records
from aotcache.probe.trees import tree_path
from aotcache.protocol.platform import Difference
from aotcache.protocol.v1.explain import Explain, Explanation, Nearest
from aotcache.protocol.v1.lookup import Lookup
from aotcache.remote.index import Index


def explained(index: Index, asked: Lookup, cache_root: str) -> tuple[Explanation, bool]:
    """What the service says, with what this machine's engine record of the hash knows of it, and
    whether there is one."""
    records = read_records(tree_path(cache_root, asked.layout, asked.hash))
    record = next((one for one in records if one.hash_factors), records[0] if records else None)
    said = index.explain(
        Explain(
            layout=asked.layout,
            hash=asked.hash,
            platform=asked.platform,
            namespace=asked.namespace,
            parts=asked.parts,
            recipe=record.recipe if record else None,
            hash_factors=record.hash_factors if record else {},
        )
    )
    return said, record is not None


def say(found: Explanation, *, recorded: bool) -> None:
    """recorded: an engine record of the hash lies here."""
    near = found.nearest
    if near is None and recorded:
        output.say("  nothing of its engine and model is stored")
        return
    if near is None:
        output.say(
            "  no engine record of it lies here, so nothing says what it is near to: ask on a node "
            "that started with it, with its --cache-root"
        )
        return
    output.say(
        f"  nearest: {near.layout}/{near.hash} (platform {near.platform[:8]}) of "
        f"{near.model or 'an unknown model'}, published by {near.publisher or 'somebody'} "
        f"{output.when(near.created)}"
    )
    for kind, field, stored, asked in _rows(near):
        output.say(f"    {kind} {field}: stored {stored!r}, here {asked!r}")
    if not near.known:
        output.say("    platform and recipe only: what was hashed is not known of both")


def _rows(near: Nearest) -> list[tuple[str, str, str, str]]:
    kinds: tuple[tuple[str, tuple[Difference, ...]], ...] = (
        ("platform", near.platform_differences),
        ("recipe", near.recipe_differences),
        ("factor", near.factor_differences),
    )
    return [(kind, one.field, one.stored, one.asked) for kind, found in kinds for one in found]


@click.command()
@options.as_json
@click.option("--all-namespaces", is_flag=True, help="Not only those of --namespace.")
@options.access
def misses(
    as_json: bool, all_namespaces: bool, url: str, token_file: str | None, namespace: str
) -> None:
    """Which nodes looked for a tree and had to compile, in the last seven days, by why."""
    found = options.index_at(url, token_file).misses(None if all_namespaces else namespace)
    if as_json:
        output.print_json(found)
        return
    if not found.groups:
        output.say("no node missed", err=True)
    for group in found.groups:
        nodes = "1 node misses" if group.nodes == 1 else f"{group.nodes} nodes miss"
        reason = group.reason.replace("_", " ")
        why = reason if group.cause == group.reason else f"{group.cause} differs, {reason}"
        output.say(
            f"{nodes}: {why} ({group.misses} times, last {output.when(group.last)}: {group.node}, "
            f"{group.model or group.hash[:12]})"
        )
        for one in group.differences:
            output.say(f"  {one.field}: stored {one.stored!r}, there {one.asked!r}")
