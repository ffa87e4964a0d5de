"""`audit`: what was changed by hand."""

from __future__ import annotations

import click

from aotcache.cli import options, output
from aotcache.protocol.v1.audit import MAX_ACTIONS, Action


@click.command()
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--all-namespaces", is_flag=True, help="Of all that the token is for.")
@options.as_json
@options.access
def audit(
    limit: int,
    all_namespaces: bool,
    as_json: bool,
    url: str,
    token_file: str | None,
    namespace: str,
) -> None:
    """What was changed by hand, the last first: when, by which token, from the pages or not.

    Collections are of all namespaces. Needs a token to admin.
    """
    index = options.index_at(url, token_file)
    found: list[Action] = []
    wanted, before = None if all_namespaces else namespace, 0
    while len(found) < limit:
        asked = min(limit - len(found), MAX_ACTIONS)
        some = index.audit(wanted, before=before, limit=asked).actions
        found += some
        if len(some) < asked:
            break
        before = some[-1].id
    if as_json:
        output.print_json(found)
        return
    for one in found:
        output.say(
            f"{output.when(one.at)}  {one.action} {one.what}: {one.outcome} (token "
            f"{one.token or 'none'}, by {one.way})"
        )
    if not found:
        output.say("nothing was changed by hand", err=True)
