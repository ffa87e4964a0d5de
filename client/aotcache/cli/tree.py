"""`show`, `rm`: the stored trees of a hash."""

from __future__ import annotations

from collections.abc import Iterator

import click

from aotcache.cli import options, output
from aotcache.cli.query import flags, model_of
from aotcache.errors import PinnedError
from aotcache.protocol.v1.quarantine import QuarantinedPart
from aotcache.protocol.v1.trees import StoredGeneration, TreeDetail, TreeSummary


@click.command()
@click.argument("hash")
@options.layout
@options.as_json
@options.access
def show(
    hash: str, layout: str | None, as_json: bool, url: str, token_file: str | None, namespace: str
) -> None:
    """Show every stored tree of HASH: platform, recipe, parts and generations."""
    index = options.index_at(url, token_file)
    hash = options.whole_hash(index, hash, namespace, layout)
    found = index.tree(hash, namespace=namespace, layout=layout)
    if as_json:
        output.print_json(found)
        return
    for detail in found.trees:
        _show(detail)


def _show(detail: TreeDetail) -> None:
    tree = detail.tree
    output.say(f"{_name(tree)} {flags(tree)}".rstrip())
    seconds = tree.compile_seconds
    rows = [
        *_fields("platform ", tree.platform),
        *_fields("recipe ", tree.recipe),
        ("published", f"{output.when(tree.created)} by {tree.publisher}"),
        ("last used", f"{output.when(tree.used)}, {tree.lookups} lookups"),
        ("compile", "not known" if seconds is None else f"{seconds:.1f} s"),
        *_saved(detail),
        *((f"outcome {name}", str(count)) for name, count in sorted(tree.outcomes.items())),
        *((f"withheld {name}", "stored, and not served") for name in tree.withheld),
        *((f"missing {name}", "not stored yet") for name in tree.missing),
        *((f"quarantined {held.part}", _why(held)) for held in detail.quarantined),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        output.say(f"  {name:<{width}}  {value}")
    output.print_table(
        ("part", "generation", "state", "files", "size", "stored", "published", "signed by"),
        [
            (
                one.part.part,
                str(one.part.generation),
                one.state,
                str(one.part.files),
                output.size(one.part.raw_bytes),
                output.size(one.part.stored_bytes),
                f"{output.when(one.created)} {one.publisher}",
                ", ".join(one.part.signers) or "nobody",
            )
            for one in detail.generations or _served(detail)
        ],
    )


def _saved(detail: TreeDetail) -> list[tuple[str, str]]:
    """Older services do not tell, nor of generations."""
    return [("saved", f"{detail.saved_seconds:.0f} s of compiling")] if detail.generations else []


def _served(detail: TreeDetail) -> Iterator[StoredGeneration]:
    """All that an older service tells of. It names a publisher of the tree, not of each part."""
    tree = detail.tree
    for part in detail.parts:
        yield StoredGeneration(
            part=part, state="served", created=tree.created, publisher=tree.publisher
        )


def _why(held: QuarantinedPart) -> str:
    which = f"{held.first} to {held.generation}" if held.first < held.generation else held.first
    return f"generation {which} since {output.when(held.since)}: {held.reason}"


def _fields(prefix: str, about: object) -> list[tuple[str, str]]:
    """Those that are known."""
    rows = []
    for name in getattr(about, "__dataclass_fields__", {}):
        value = getattr(about, name)
        for key, one in value.items() if isinstance(value, dict) else ((name, value),):
            if one:
                rows.append((f"{prefix}{key}", str(one)))
    return rows


def _name(tree: TreeSummary) -> str:
    return f"{tree.namespace}/{tree.layout}/{tree.hash}/{tree.platform_id}"


@click.command()
@click.argument("hash")
@options.layout
@options.platform_id
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.as_json
@options.access
def rm(
    hash: str,
    layout: str | None,
    platform_id: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    url: str,
    token_file: str | None,
    namespace: str,
) -> None:
    """Delete every stored tree of HASH, or that of one platform.

    It is not looked up any more at once; machines that have pulled it keep their copy.
    """
    index = options.index_at(url, token_file)
    hash = options.whole_hash(index, hash, namespace, layout)
    platform = options.whole_platform(index, platform_id, namespace, hash, layout)
    if dry_run or not yes:
        found = index.tree(hash, namespace=namespace, layout=layout, platform=platform)
        trees = [detail.tree for detail in found.trees]
        if pinned := [_name(tree) for tree in trees if tree.pinned]:
            raise PinnedError(
                f"{', '.join(pinned)} is pinned: nothing goes. `aotcache unpin` it first"
            )
        if dry_run and as_json:
            output.print_json(trees)
            return
        for tree in trees:
            what = f"{model_of(tree)} on {tree.platform.device}, {output.size(tree.raw_bytes)}"
            output.say(f"would be deleted: {_name(tree)} ({what.strip()})", err=not dry_run)
        if dry_run:
            return
        click.confirm(f"delete {len(trees)} stored tree(s)?", abort=True, err=True)
    deleted = index.delete(hash, namespace=namespace, layout=layout, platform=platform)
    if as_json:
        output.print_json(deleted)
    else:
        for name in deleted.trees:
            output.say(f"deleted {name}")
