"""`watch`: publish the trees of this machine as they become complete."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import click
import msgspec

from aotcache.cli import options
from aotcache.cli.push import said_published
from aotcache.probe.trees import find_trees
from aotcache.sync.published import Published
from aotcache.sync.settle import QUIET

if TYPE_CHECKING:
    from aotcache.watch.watcher import Watcher


@click.command()
@options.cache_root
@options.platform
@click.option("--once", is_flag=True, help="Publish what is complete, then exit.")
@click.option(
    "--while-engines-run",
    is_flag=True,
    help="For engines with the vLLM plugin: end with the last of them, or at once where another "
    "process publishes from the cache root; at the lowest priority.",
)
@click.option("--quiet", default=QUIET, show_default=True, help="Seconds without a write: settled.")
@click.option("--rescan", default=30.0, show_default=True, help="Seconds between looks for growth.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each publish.")
@options.transfer
def watch(
    cache_root: str,
    platform_from: str | None,
    once: bool,
    while_engines_run: bool,
    quiet: float,
    rescan: float,
    as_json: bool,
    namespace: str,
    **site: Any,
) -> None:
    """Publish every tree under the cache root as it becomes complete.

    What was completed while nobody watched is found first. Trees without an engine record are left,
    unless --platform says what they were compiled for. Stops on SIGTERM or Ctrl-C after the publish
    it is at; a publish that was cut off goes on at the next start.
    """
    from aotcache.watch.watcher import Watcher

    watcher = Watcher(
        options.site_at(**site),
        namespace,
        cache_root,
        platform=options.platform_of(platform_from),
        quiet=quiet,
        rescan=rescan,
        published=_print_line if as_json else _print_said,
    )
    if once:
        watcher.once()
        if not find_trees(cache_root):
            click.echo(f"there is no tree under {cache_root}", err=True)
        _say_failed(watcher)
        raise SystemExit(1 if watcher.failed else 0)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    if while_engines_run:
        _run_for_engines(watcher, cache_root, stop)
    else:
        watcher.run(stop)


def _run_for_engines(watcher: Watcher, cache_root: str, stop: threading.Event) -> None:
    from aotcache.local.node import be_publisher, engines_live

    lock = be_publisher(cache_root)
    if lock is None:
        click.echo(f"another process publishes from {cache_root}", err=True)
        return
    os.nice(19)
    while lock is not None:
        watcher.run(stop, over=lambda: not engines_live(cache_root))
        os.close(lock)
        # One that has started since saw this publisher at work, and its own has ended.
        again = not stop.is_set() and engines_live(cache_root)
        lock = be_publisher(cache_root) if again else None
    _say_failed(watcher)


def _say_failed(watcher: Watcher) -> None:
    for where, why in watcher.failed.items():
        click.echo(f"not published: {where}: {why}", err=True)


def _print_said(result: Published) -> None:
    click.echo(said_published(result), err=True)


def _print_line(result: Published) -> None:
    click.echo(msgspec.json.encode(result))
