"""`export`, `import`: stored trees to another store or namespace."""

from __future__ import annotations

from typing import Any

import click

from aotcache.cli import MISS, options, output
from aotcache.cli.pull import said
from aotcache.cli.push import said_published
from aotcache.errors import NotFoundError, UsageError
from aotcache.protocol.v1.trees import TreeDetail
from aotcache.remote.index import Index
from aotcache.sync.carry import export_tree, exported, import_trees
from aotcache.sync.published import Published
from aotcache.sync.pull import Pulled


@click.command()
@click.argument("hashes", metavar="HASH…", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every tree of the namespace.")
@click.option("--to", "folder", metavar="DIR", required=True, help="Where to; may exist.")
@options.platform_id
@options.layout
@options.as_json
@options.transfer
def export(
    hashes: tuple[str, ...],
    everything: bool,
    folder: str,
    platform_id: str | None,
    layout: str | None,
    as_json: bool,
    namespace: str,
    **site: Any,
) -> None:
    """Put stored trees into a directory, for `aotcache import` elsewhere.

    Of each HASH the trees of all platforms. They are verified like those of a pull. A directory
    that holds an earlier export only gets what is new.
    """
    if bool(hashes) == everything:
        raise UsageError("say which trees: `aotcache export HASH… --to DIR`, or --all")
    index = options.index_at(site["url"], site["token_file"])
    if everything:
        wanted = _every_hash(index, namespace, layout)
        if not wanted:
            raise NotFoundError(f"nothing is stored in namespace {namespace}: nothing is exported")
    else:
        wanted = [options.whole_hash(index, hash, namespace, layout) for hash in hashes]
    done: list[Pulled] = []
    missed = False
    with output.progress(as_json) as progress:
        place = options.site_at(progress, **site)
        for stored in _stored(index, wanted, namespace, layout, platform_id):
            result = export_tree(place, stored, folder)
            if isinstance(result, Pulled):
                done.append(result)
                if not as_json:
                    output.say(said(result))
            else:
                missed = True
                output.say(f"miss ({result.reason}): {result.message}", err=True)
    if as_json:
        output.print_json(done)
    if missed:
        raise SystemExit(MISS)


def _every_hash(index: Index, namespace: str, layout: str | None) -> list[str]:
    found: dict[str, None] = {}
    cursor: str | None = None
    while cursor != "":
        page = index.trees(namespace=namespace, layout=layout, cursor=cursor)
        found |= dict.fromkeys(tree.hash for tree in page.trees)
        cursor = page.cursor
    return list(found)


def _stored(
    index: Index, hashes: list[str], namespace: str, layout: str | None, platform: str | None
) -> list[TreeDetail]:
    """All of them are asked for first: what is not stored is said before anything is done."""
    platform = options.whole_platform(index, platform, namespace, layout=layout)
    found = (
        index.tree(hash, namespace=namespace, layout=layout, platform=platform) for hash in hashes
    )
    return [tree for one in found for tree in one.trees]


@click.command("import")
@click.argument("folder", metavar="DIR")
@options.as_json
@options.transfer
def import_(folder: str, as_json: bool, namespace: str, **site: Any) -> None:
    """Publish the trees of an `aotcache export`, signed with the key of this machine.

    Whoever signed what was exported has to be trusted here, as for a pull. Only what is not stored
    yet is uploaded. Interrupted, the same command goes on.
    """
    trees = exported(folder)
    done: list[Published] = []
    with output.progress(as_json) as progress:
        place = options.site_at(progress, **site)
        for result in import_trees(place, namespace, trees):
            done.append(result)
            if not as_json:
                output.say(said_published(result))
                output.say_left_out(result.left_out, output.say)
    if as_json:
        output.print_json(done)
