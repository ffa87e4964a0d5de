"""`quarantine`: what is stored and not served, as nodes failed with it."""

from __future__ import annotations

from datetime import datetime, timezone

import click

from aotcache.cli import options, output


@click.group()
def quarantine() -> None:
    """Parts that nodes failed with, or that an admin took out of service: they are answered as a
    miss until they are released or deleted (`aotcache rm`), or somebody publishes another one."""


@quarantine.command("list")
@click.option("--all-namespaces", is_flag=True, help="Of all that the token is for.")
@options.as_json
@options.access
def list_quarantined(
    all_namespaces: bool, as_json: bool, url: str, token_file: str | None, namespace: str
) -> None:
    """List them, with what the nodes told."""
    index = options.index_at(url, token_file)
    found = index.quarantined(None if all_namespaces else namespace)
    if as_json:
        output.print_json(found.parts)
        return
    for part in found.parts:
        since = datetime.fromtimestamp(part.since, timezone.utc).strftime("%Y-%m-%d %H:%M")
        output.say(
            f"{since}  {part.namespace}/{part.layout}/{part.hash} {part.part} "
            f"(platform {part.platform[:8]}): {part.reason}"
        )
    if not found.parts:
        output.say("nothing is quarantined", err=True)


@quarantine.command()
@click.argument("hash")
@click.option("--reason", required=True, help="Why, for whoever misses it then.")
@options.layout
@click.option("--part", default="", help="Only this part.")
@options.platform_id
@click.option(
    "--after",
    metavar="GENERATION",
    type=click.IntRange(1),
    help="Only later generations: the last of the earlier ones is served in their place.",
)
@options.as_json
@options.access
def add(
    hash: str,
    reason: str,
    layout: str | None,
    part: str,
    platform_id: str | None,
    after: int | None,
    as_json: bool,
    url: str,
    token_file: str | None,
    namespace: str,
) -> None:
    """Do not serve what is stored of HASH: nodes compile instead. Needs a token to admin."""
    from aotcache.protocol.v1.quarantine import Quarantine

    index = options.index_at(url, token_file)
    hash = options.whole_hash(index, hash, namespace, layout)
    asked = Quarantine(
        layout=options.layout_of(hash, layout),
        hash=hash,
        reason=reason,
        part=part,
        platform=options.whole_platform(index, platform_id, namespace, hash, layout) or "",
        namespace=namespace,
        after=after or 0,
    )
    done = index.quarantine(asked).parts
    if as_json:
        output.print_json(done)
        return
    for one in done:
        output.say(f"not served any more: {one.namespace}/{one.layout}/{one.hash} {one.part}")


@quarantine.command()
@click.argument("hash")
@options.layout
@click.option("--part", default="", help="Only this part.")
@options.platform_id
@options.as_json
@options.access
def release(
    hash: str,
    layout: str | None,
    part: str,
    platform_id: str | None,
    as_json: bool,
    url: str,
    token_file: str | None,
    namespace: str,
) -> None:
    """Serve the quarantined parts of HASH again. Needs a token to admin."""
    from aotcache.protocol.v1.quarantine import Release

    index = options.index_at(url, token_file)
    hash = options.whole_hash(index, hash, namespace, layout)
    asked = Release(
        layout=options.layout_of(hash, layout),
        hash=hash,
        part=part,
        platform=options.whole_platform(index, platform_id, namespace, hash, layout) or "",
        namespace=namespace,
    )
    released = index.release(asked).parts
    if as_json:
        output.print_json(released)
        return
    for one in released:
        output.say(f"served again: {one.namespace}/{one.layout}/{one.hash} {one.part}")
