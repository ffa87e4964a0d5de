"""What commands print: JSON for programs, tables and a progress bar for people."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from aotcache.protocol.text import printable

if TYPE_CHECKING:
    from aotcache.sync.progress import Progress


def print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def say(text: str, *, err: bool = False) -> None:
    """A line; names from elsewhere in it are text, and no commands to a terminal."""
    click.echo(printable(text), err=err)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; names from elsewhere are text, never markup."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table)


def size(count: int) -> str:
    """Bytes for a person: 12.3 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def when(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else "never"


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal, a line a step in a log, nothing where `quiet`."""
    from aotcache.sync.progress import Progress

    if quiet:
        yield Progress(step=logging.getLogger("aotcache").debug)
    elif sys.stderr.isatty():
        with _bar() as bar:
            yield bar
    else:
        yield Progress()


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    from aotcache.sync.progress import Progress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("looking", total=None)

        def step(text: str) -> None:
            bar.update(task, description=text)

        def moved(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield Progress(step=step, moved=moved)


def say_left_out(left_out: Iterable[object], write: Callable[[str], None]) -> None:
    """Name what was left out; the first few in full."""
    items = list(left_out)
    for item in items[:10]:
        write(f"left out: {getattr(item, 'path', item)}: {getattr(item, 'reason', '')}")
    if len(items) > 10:
        write(f"left out: {len(items) - 10} more")
