"""The command line. Exit codes: 0 done, 1 failed, 2 usage, 3 miss.

Commands are imported when they run: `aotcache lookup` starts without rich or the service.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING

import click

from aotcache import __version__
from aotcache.errors import AotcacheError, InvalidNameError, UsageError
from aotcache.protocol.text import printable

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

MISS = 3

_COMMANDS = {
    "push": ("aotcache.cli.push:push", "Publish trees of this machine."),
    "watch": ("aotcache.cli.watch:watch", "Publish trees as they become complete."),
    "pull": ("aotcache.cli.pull:pull", "Put a stored tree on this machine."),
    "export": ("aotcache.cli.carry:export", "Put stored trees into a directory."),
    "import": ("aotcache.cli.carry:import_", "Publish what was exported elsewhere."),
    "exec": ("aotcache.cli.run:run", "Run a torch.compile program with its cache."),
    "lookup": ("aotcache.cli.query:lookup", "Say whether a tree is stored for this platform."),
    "stats": ("aotcache.cli.stats:stats", "What is stored, and what it has saved."),
    "status": ("aotcache.cli.stats:status", "Whether the service is well."),
    "misses": ("aotcache.cli.explain:misses", "Which nodes had to compile, by why."),
    "audit": ("aotcache.cli.audit:audit", "What was changed by hand, and by which token."),
    "ls": ("aotcache.cli.query:ls", "List stored trees."),
    "show": ("aotcache.cli.tree:show", "Show all that is known of a stored hash."),
    "rm": ("aotcache.cli.tree:rm", "Delete stored trees."),
    "pin": ("aotcache.cli.keep:pin", "Keep stored trees, whatever else is deleted."),
    "unpin": ("aotcache.cli.keep:unpin", "Let stored trees be deleted again."),
    "gc": ("aotcache.cli.keep:gc", "Delete what need not be kept any more."),
    "reconcile": ("aotcache.cli.keep:reconcile", "Make index and storage the same."),
    "bench": ("aotcache.cli.bench:bench", "Time publish and pull of a tree of yours."),
    "key": ("aotcache.cli.keys:key", "Signing keys and trusted keys."),
    "quarantine": ("aotcache.cli.quarantine:quarantine", "Parts that nodes failed with."),
    "release": ("aotcache.cli.quarantine:release", "Serve what was quarantined again."),
    "doctor": ("aotcache.cli.doctor:doctor", "Say what is set up here, and what to do."),
}


class _Commands(click.Group):
    """Ours by name, those of the service by the entry-point group `aotcache.commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return sorted({*_COMMANDS, *(point.name for point in _points())})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name in _COMMANDS:
            module, _, attribute = _COMMANDS[name][0].partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        for point in _points():
            if point.name == name:
                try:
                    loaded: click.Command = point.load()
                except ImportError as error:
                    raise click.ClickException(
                        f"`aotcache {name}` needs the service ({error}): "
                        "pip install 'aotcache[service]'"
                    ) from error
                return loaded
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, short) for name, (_, short) in _COMMANDS.items()]
        rows += [
            (name, _SERVICE.get(name, "")) for name in self.list_commands(ctx) if name in _SERVICE
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


_SERVICE = {
    "serve": "Run the service: index, storage, API.",
    "reindex": "Rebuild the index from object storage.",
    "token": "Tokens for the service.",
}


def _points() -> list[EntryPoint]:
    from importlib.metadata import entry_points

    return sorted(entry_points(group="aotcache.commands"), key=lambda point: point.name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="aotcache")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
def cli(verbose: bool) -> None:
    """Move compiled torch.compile and vLLM trees between machines, so that they start warm.

    Start a service with `aotcache serve --data-dir DIR`, point machines at it with AOTCACHE_URL,
    publish on one with `aotcache watch` or `push`, and `pull` on the others.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s aotcache %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    for chatty in ("asyncio", "botocore", "filelock"):
        # What they warn of (a connection is tried again) ends in an error of ours, or well.
        logging.getLogger(chatty).setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def main() -> None:
    """Entry point. Errors of ours are one line; anything else is a bug and shows its traceback."""
    try:
        cli(prog_name="aotcache")
    except (UsageError, InvalidNameError) as error:
        click.echo(printable(f"aotcache: {error}"), err=True)
        sys.exit(2)
    except (AotcacheError, OSError) as error:
        # An OSError that comes here is of our own output: a full disk, a closed terminal.
        click.echo(printable(f"aotcache: {error}"), err=True)
        sys.exit(1)
