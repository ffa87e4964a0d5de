"""From what was found to the tables of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from bench.bars import AT_LEAST, AT_MOST, FASTER, Held, held


def render(data: dict[str, Any]) -> str:
    """The generated part of the page."""
    parts = data["parts"]
    tables = [_where(data)]
    if rows := [_held_row(one) for one in held(data)]:
        tables += [
            "Faster: theirs divided by ours. At most, at least: ours, or ours divided by theirs.\n",
            table(("what", "ours", "theirs", "found", "bar", "reached"), rows, right=(3, 4)),
        ]
    if rows := list(_time_rows(parts)):
        tables += [
            "Seconds of whole processes in turns; CPU without the servers':\n",
            table(("what", "who", "median s", "range s", "CPU s", "runs"), rows, right=(2, 4, 5)),
        ]
    if rows := list(_number_rows(parts)):
        tables += ["Everything else:\n", table(("what", "who", "found"), rows, right=(2,))]
    if left_out := {who: why for part in parts.values() for who, why in part["left_out"].items()}:
        tables.append("Left out: " + "; ".join(f"{who} ({why})" for who, why in left_out.items()))
    tables.append(_runs(parts))
    return "\n".join(tables)


def _held_row(one: Held) -> tuple[str, ...]:
    """As short as the table allows: the reader compares the last three columns."""
    sign = {FASTER: "{:g}x faster", AT_MOST: "at most {:g}", AT_LEAST: "at least {:g}"}
    return (
        one.bar.what,
        one.bar.ours,
        one.bar.theirs,
        f"{_number(one.value)}x" if one.bar.kind == FASTER else _number(one.value),
        sign[one.bar.kind].format(one.bar.bar),
        "yes" if one.reached else "**no**",
    )


def _time_rows(parts: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    for part in parts.values():
        for what, contestants in part["runs"].items():
            for who, samples in contestants.items():
                seconds = [one["seconds"] for one in samples]
                cpu = median(one["cpu_seconds"] for one in samples)
                yield (
                    what,
                    who,
                    f"{median(seconds):.2f}",
                    f"{min(seconds):.2f} to {max(seconds):.2f}",
                    f"{cpu:.2f}" if cpu else "",
                    str(len(samples)),
                )


def _number_rows(parts: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    for part in parts.values():
        for what, counts in part["numbers"].items():
            for who, count in counts.items():
                yield what, who, _number(count)


def _number(value: float) -> str:
    """Three digits that mean something, and never an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _where(data: dict[str, Any]) -> str:
    machine, version = data["machine"], dict(data["versions"])
    work = data["work"]
    commit = version.pop("commit")
    tools = ", ".join(f"{name} {said}" for name, said in version.items() if name != "aotcache")
    return (
        f"aotcache {version['aotcache']} at {commit}. {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['file_system']}, "
        f"Linux {machine['kernel']}. {tools}. "
        f"{work['name']}: {work['files']:,} files, {work['bytes'] / 1e6:.0f} MB.\n"
    )


def _runs(parts: dict[str, Any]) -> str:
    """A part may have been run again on its own."""
    rows = [
        (
            name,
            part["date"],
            part["commit"],
            f"{part['seconds']}",
            f"{part['load']['before']} to {part['load']['after']}",
        )
        for name, part in parts.items()
    ]
    columns = ("part", "date", "commit", "seconds", "load before and after")
    return "Which part ran when:\n\n" + table(columns, rows, right=(3,))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int]) -> str:
    """A Markdown table that reads as text too. right: columns of numbers."""
    lines = [columns, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |\n"

    rule = ["-" * (w - 1) + (":" if at in right else "-") for at, w in enumerate(widths)]
    return "".join([line(columns), line(rule), *(line(row) for row in lines[1:])])
