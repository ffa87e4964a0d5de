"""`lookup`, `ls`: what is stored."""

from __future__ import annotations

import click

from aotcache.cli import MISS, options, output
from aotcache.protocol.v1.lookup import Lookup, Miss
from aotcache.protocol.v1.trees import SORTS, TreeSummary


@click.command()
@click.argument("hash")
@options.layout
@options.platform
@click.option("--part", "parts", multiple=True, help="Only this part (again for more).")
@click.option(
    "--explain",
    is_flag=True,
    help="Of a miss: the nearest stored tree, and in what it differs; also from what the engine "
    "hashed, where its record of HASH lies under --cache-root.",
)
@options.cache_root
@options.as_json
@options.access
def lookup(
    hash: str,
    layout: str | None,
    platform_from: str | None,
    parts: tuple[str, ...],
    explain: bool,
    cache_root: str,
    as_json: bool,
    url: str,
    token_file: str | None,
    namespace: str,
) -> None:
    """Say whether the tree HASH is stored for this platform, and if not, why.

    Exits with 0 for a hit and 3 for a miss.
    """
    index = options.index_at(url, token_file)
    hash = options.whole_hash(index, hash, namespace, layout)
    asked = Lookup(
        layout=options.layout_of(hash, layout),
        hash=hash,
        platform=options.this_platform(platform_from),
        namespace=namespace,
        parts=parts,
    )
    answer = index.lookup(asked)
    found = None
    if explain and isinstance(answer, Miss):
        from aotcache.cli.explain import explained, say

        found, recorded = explained(index, asked, cache_root)
    if as_json:
        output.print_json(found or answer)
    elif isinstance(answer, Miss):
        output.say(f"miss ({answer.reason}): {answer.message}")
        for difference in answer.differences:
            output.say(
                f"  {difference.field}: stored {difference.stored!r}, asked for "
                f"{difference.asked!r}"
            )
        if found is not None:
            say(found, recorded=recorded)
    else:
        output.say(f"hit: {answer.layout}/{answer.hash} for platform {answer.platform}")
        for part in answer.parts:
            output.say(
                f"  {part.part}: generation {part.generation}, {part.files} files, "
                f"{output.size(part.raw_bytes)} ({output.size(part.stored_bytes)} stored)"
            )
        for name in answer.missing:
            output.say(f"  {name}: not stored yet, or not served")
    if isinstance(answer, Miss):
        raise SystemExit(MISS)


@click.command()
@options.layout
@click.option("--hash", "start", help="Start of the hash.")
@click.option("--engine", help="Engine of the recipe, `vllm`.")
@click.option("--model", help="Model of the recipe.")
@options.platform_id
@click.option("--publisher", help="Host that published it.")
@click.option("--pinned", is_flag=True, help="Only what is pinned.")
@click.option("--quarantined", is_flag=True, help="Only what is quarantined.")
@click.option("--sort", type=click.Choice(SORTS), default="created", show_default=True)
@click.option("--ascending", is_flag=True, help="Smallest or oldest first.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="How many trees to list; 0: all.",
)
@options.as_json
@options.access
def ls(
    layout: str | None,
    start: str | None,
    engine: str | None,
    model: str | None,
    platform_id: str | None,
    publisher: str | None,
    pinned: bool,
    quarantined: bool,
    sort: str,
    ascending: bool,
    limit: int,
    as_json: bool,
    url: str,
    token_file: str | None,
    namespace: str,
) -> None:
    """List stored trees, newest first."""
    index = options.index_at(url, token_file)
    platform_id = options.whole_platform(index, platform_id, namespace, start, layout)
    trees: list[TreeSummary] = []
    cursor: str | None = None
    while True:
        left = limit - len(trees) if limit else 500
        page = index.trees(
            namespace=namespace,
            layout=layout,
            hash=start,
            engine=engine,
            model=model,
            platform=platform_id,
            publisher=publisher,
            pinned=pinned,
            quarantined=quarantined,
            sort=sort,
            order="asc" if ascending else "desc",
            cursor=cursor,
            limit=min(500, left),
        )
        trees += page.trees
        cursor = page.cursor
        if not cursor or (limit and len(trees) >= limit):
            break
    if as_json:
        output.print_json(trees)
        return
    rows = [
        (
            tree.layout,
            tree.hash[:16],
            model_of(tree),
            tree.platform.arch or tree.platform.device,
            tree.platform_id[:12],
            _parts(tree),
            f"{tree.files}",
            output.size(tree.raw_bytes),
            output.size(tree.stored_bytes),
            output.when(tree.created),
            output.when(tree.used),
            flags(tree),
        )
        for tree in trees
    ]
    columns = (
        "layout",
        "hash",
        "model",
        "device",
        "platform",
        "parts",
        "files",
        "size",
        "stored",
        "published",
        "last used",
        "",
    )
    output.print_table(columns, rows)
    if cursor:
        output.say(f"the first {len(trees)}; --limit 0 lists all", err=True)


def flags(tree: TreeSummary) -> str:
    return " ".join(name for name in ("pinned", "quarantined") if getattr(tree, name))


def _parts(tree: TreeSummary) -> str:
    less = len(tree.missing) + len(tree.withheld)
    return f"{len(tree.parts)}" + (f" (-{less})" if less else "")


def model_of(tree: TreeSummary) -> str:
    return f"{tree.recipe.engine} {tree.recipe.model}".strip() if tree.recipe else ""
