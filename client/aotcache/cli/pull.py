"""`pull`: stored trees onto this machine."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from aotcache.cli import MISS, options, output
from aotcache.errors import ObjectMissingError, PackError, UsageError
from aotcache.net.tracing import is_traced
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss

if TYPE_CHECKING:
    from aotcache.net.http import HttpClient
    from aotcache.protocol.v1.recipes import RecipeLookup
    from aotcache.sync.pull import Pulled


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
            client = options.client_at(site["url"], site["token_file"])
            found = None
            if isinstance(asked, Lookup) and not is_traced():
                found = _ask(client, asked)
            # What is imported from here on is so while the service answers.
            place = options.site_at(progress, client=client, **site)
            from aotcache.sync.together import pull_recipe, pull_together

            if isinstance(asked, Lookup):
                results += pull_together(place, asked, cache_root, lock_timeout=wait, found=found)
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


def _ask(client: HttpClient, lookup: Lookup) -> Callable[[], Hit | Miss]:
    from aotcache.remote.index import Index
    from aotcache.sync.ahead import Ahead

    asked = lookup.before_a_pull()
    return Ahead(lambda: Index(client).lookup(asked)).answer


def _recipe(command: str, platform_from: str | None, namespace: str) -> RecipeLookup:
    from aotcache.engines.vllm.command import recipe_of_command
    from aotcache.protocol.v1.recipes import RecipeLookup

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
            output.say(f"miss ({result.reason}): {result.message}", err=True)
        else:
            output.say(said(result))


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
