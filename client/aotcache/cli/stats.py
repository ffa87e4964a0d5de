"""`stats` and `status`: what the service holds, and whether it is well."""

from __future__ import annotations

import click

from aotcache.cli import options, output
from aotcache.errors import AotcacheError
from aotcache.protocol.v1.collect import Collection
from aotcache.protocol.v1.stats import DAYS, Stats


@click.command()
@options.as_json
@options.access
def stats(
    as_json: bool,
    url: str,
    token_file: str | None,
    namespace: str,  # noqa: ARG001 (of all that the token may read)
) -> None:
    """What is stored in all namespaces that the token may read, and what it has saved."""
    found = options.index_at(url, token_file).stats()
    if as_json:
        output.print_json(found)
        return
    output.print_table(("what", "how much"), _rows(found))
    if found.models:
        output.print_table(
            ("model", "trees", "stored", "lookups"),
            [
                (
                    one.model or "not known",
                    str(one.trees),
                    output.size(one.stored_bytes),
                    str(one.lookups),
                )
                for one in found.models
            ],
        )
    if found.drift:
        output.say("one recipe, many hashes: something that is no part of it changes them")
        output.print_table(
            ("model", "layout", "device", "torch", "platform", "hashes", "a start uses"),
            [
                (
                    one.model or "not known",
                    one.layout,
                    one.device,
                    one.torch,
                    one.platform[:12],
                    str(one.hashes),
                    str(one.expected),
                )
                for one in found.drift
            ],
        )


def _rows(found: Stats) -> list[tuple[str, str]]:
    return [
        ("trees", str(found.trees)),
        ("parts", str(found.parts)),
        ("pinned trees", str(found.pinned)),
        ("quarantined parts", str(found.quarantined)),
        *(
            (f"{state} packs", f"{number}, {output.size(found.pack_bytes[state])}")
            for state, number in sorted(found.packs.items(), reverse=True)
        ),
        ("lookups that hit", str(found.lookups)),
        (f"found, last {DAYS} days", _rate(found)),
        *(
            (f"missed, {reason.replace('_', ' ')}", str(number))
            for reason, number in found.missed.items()
        ),
        *((f"parts {name}", str(number)) for name, number in sorted(found.outcomes.items())),
        ("pulled", f"{output.size(found.pull_bytes)} in {found.pull_seconds:.0f} s"),
        ("saved", f"{found.saved_seconds:.0f} s of compiling"),
    ]


def _rate(found: Stats) -> str:
    every = found.found + sum(found.missed.values())
    return f"{100 * found.found / every:.1f} % of {every} lookups" if every else "no lookups"


@click.command()
@options.as_json
@options.access
def status(
    as_json: bool,
    url: str,
    token_file: str | None,
    namespace: str,  # noqa: ARG001 (it is of the whole service)
) -> None:
    """Whether the service answers, its version, and how its last collection ended.

    Exits with 1 where it does not answer. `aotcache doctor` looks at this machine.
    """
    index = options.index_at(url, token_file)
    ready = index.ready()
    said: dict[str, object] = {
        "url": url,
        "status": ready.status,
        "version": ready.version,
        "api": ", ".join(map(str, ready.api)),
    }
    try:
        last = index.collection()
    except AotcacheError as error:
        # Not everybody may ask: it is well all the same.
        said["collection"] = f"not known: {error}"
    else:
        said["collection"] = _collection(last)
    if as_json:
        output.print_json(said)
        return
    for name, value in said.items():
        output.say(f"{name}: {value}")


def _collection(last: Collection) -> str:
    if last.running:
        return f"under way since {output.when(last.started)}"
    if last.error:
        return f"failed {output.when(last.finished)}: {last.error}"
    ended = f"ended {output.when(last.done)}"
    if last.reconciled is not None:
        return f"{ended}; a reconcile ended {output.when(last.finished)}"
    if last.report is not None and last.report.dry_run:
        return f"{ended}; a dry run ended {output.when(last.finished)}"
    return ended
