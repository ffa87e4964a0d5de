"""`lookup`, `ls`, `show`, `rm`: what is stored."""

from __future__ import annotations

import click

from aotcache.cli import MISS, options, output
from aotcache.errors import UsageError
from aotcache.protocol.v1.lookup import Lookup, Miss
from aotcache.protocol.v1.trees import SORTS, TreeDetail, TreeSummary


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
    asked = Lookup(
        layout=options.layout_of(hash, layout),
        hash=hash,
        platform=options.this_platform(platform_from),
        namespace=namespace,
        parts=parts,
    )
    index = options.index_at(url, token_file)
    answer = index.lookup(asked)
    found = None
    if explain and isinstance(answer, Miss):
        from aotcache.cli.explain import explained, say

        found, recorded = explained(index, asked, cache_root)
    if as_json:
        output.print_json(found or answer)
    elif isinstance(answer, Miss):
        click.echo(f"miss ({answer.reason}): {answer.message}")
        for difference in answer.differences:
            click.echo(
                f"  {difference.field}: stored {difference.stored!r}, asked for "
                f"{difference.asked!r}"
            )
        if found is not None:
            say(found, recorded=recorded)
    else:
        click.echo(f"hit: {answer.layout}/{answer.hash} for platform {answer.platform}")
        for part in answer.parts:
            click.echo(
                f"  {part.part}: generation {part.generation}, {part.files} files, "
                f"{output.size(part.raw_bytes)} ({output.size(part.stored_bytes)} stored)"
            )
        for name in answer.missing:
            click.echo(f"  {name}: not stored yet, or not served")
    if isinstance(answer, Miss):
        raise SystemExit(MISS)


@click.command()
@options.layout
@click.option("--hash", "start", help="Start of the hash.")
@click.option("--engine", help="Engine of the recipe, `vllm`.")
@click.option("--model", help="Model of the recipe.")
@click.option("--platform-id", help="Id of the platform.")
@click.option("--publisher", help="Host that published it.")
@click.option("--pinned", is_flag=True, help="Only what is pinned.")
@click.option("--quarantined", is_flag=True, help="Only what is quarantined.")
@click.option("--sort", type=click.Choice(SORTS), default="created", show_default=True)
@click.option("--ascending", is_flag=True, help="Smallest or oldest first.")
@click.option("--limit", default=50, show_default=True, help="How many trees to list; 0: all.")
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
            _model(tree),
            tree.platform.arch or tree.platform.device,
            tree.platform_id[:12],
            _parts(tree),
            f"{tree.files}",
            output.size(tree.raw_bytes),
            output.size(tree.stored_bytes),
            output.when(tree.created),
            output.when(tree.used),
            _flags(tree),
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
        click.echo(f"the first {len(trees)}; --limit 0 lists all", err=True)


def _flags(tree: TreeSummary) -> str:
    return " ".join(name for name in ("pinned", "quarantined") if getattr(tree, name))


def _parts(tree: TreeSummary) -> str:
    less = len(tree.missing) + len(tree.withheld)
    return f"{len(tree.parts)}" + (f" (-{less})" if less else "")


def _model(tree: TreeSummary) -> str:
    return f"{tree.recipe.engine} {tree.recipe.model}".strip() if tree.recipe else ""


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
    if any(detail.tree.quarantined for detail in found.trees):
        click.echo("  `aotcache quarantine list` says why", err=True)


def _show(detail: TreeDetail) -> None:
    tree = detail.tree
    click.echo(f"{tree.namespace}/{tree.layout}/{tree.hash} {_flags(tree)}".rstrip())
    rows = [
        ("platform", tree.platform_id),
        *((f"  {name}", value) for name, value in _fields(tree.platform) if value),
        *((f"recipe {name}", value) for name, value in _fields(tree.recipe) if value),
        ("published", f"{output.when(tree.created)} by {tree.publisher}"),
        ("last used", f"{output.when(tree.used)}, {tree.lookups} lookups"),
        (
            "compile",
            "not known" if tree.compile_seconds is None else f"{tree.compile_seconds:.1f} s",
        ),
        *((f"outcome {name}", str(count)) for name, count in sorted(tree.outcomes.items())),
        *((f"withheld {name}", "stored, and not served") for name in tree.withheld),
        *((f"missing {name}", "not stored yet") for name in tree.missing),
    ]
    for name, value in rows:
        click.echo(f"  {name:<22} {value}")
    columns = ("part", "generation", "files", "size", "stored", "signed by")
    output.print_table(
        columns,
        [
            (
                part.part,
                str(part.generation),
                str(part.files),
                output.size(part.raw_bytes),
                output.size(part.stored_bytes),
                ", ".join(part.signers) or "nobody",
            )
            for part in detail.parts
        ],
    )


def _fields(value: object) -> list[tuple[str, str]]:
    if value is None:
        return []
    names = getattr(value, "__dataclass_fields__", {})
    return [(name, str(getattr(value, name))) for name in names]


@click.command()
@click.argument("hash")
@options.layout
@click.option("--platform-id", help="Only the tree of this platform; its start suffices.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.as_json
@options.access
def rm(
    hash: str,
    layout: str | None,
    platform_id: str | None,
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
    if platform_id is not None or not yes:
        found = index.tree(hash, namespace=namespace, layout=layout)
        ids = {detail.tree.platform_id for detail in found.trees}
        if platform_id is not None:
            ids = {found_id for found_id in ids if found_id.startswith(platform_id)}
            if len(ids) != 1:
                raise UsageError(f"{len(ids)} stored platforms of {hash} begin with {platform_id}")
            platform_id = ids.pop()
            found = index.tree(hash, namespace=namespace, layout=layout, platform=platform_id)
    if not yes:
        click.confirm(f"delete {len(found.trees)} stored tree(s) of {hash}?", abort=True, err=True)
    deleted = index.delete(hash, namespace=namespace, layout=layout, platform=platform_id)
    if as_json:
        output.print_json(deleted)
    else:
        for tree in deleted.trees:
            click.echo(f"deleted {tree}")
