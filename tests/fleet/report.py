"""From what was measured to docs/fleet.json and the tables of docs/fleet.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.report import table
from fleet.balancer import METHODS, NODES, SERVICE
from fleet.model import at
from fleet.plan import COMPILED, HIT, WAITED
from fleet.run import Measured

DOCS = Path(__file__).parents[2] / "docs"
JSON, PAGE = DOCS / "fleet.json", DOCS / "fleet.md"
BEGIN = "<!-- made by `make fleet` from fleet.json: do not edit -->\n"
END = "<!-- end of what `make fleet` makes -->\n"
_POOL = (
    "One replica, eight seconds each, `wrk` beside it: of ten calls four lookups, three by recipe, "
    "two outcomes, one question why; one tree after the other is published meanwhile:\n"
)


def summary(measured: Measured) -> dict[str, Any]:
    """What is kept of a scenario."""
    starts = len(measured.ended)
    warm = {
        how: [one.seconds for one in measured.ended if one.how == how]
        for how in (HIT, WAITED, COMPILED)
    }
    return {
        "starts": starts,
        **{how: len(seconds) for how, seconds in warm.items()},
        "hit_rate": measured.hits / starts,
        "avoided": starts - measured.misses,
        "errors": len(measured.errors),
        "first_error": measured.errors[0] if measured.errors else "",
        "untold": sum(bool(one.untold) for one in measured.ended),
        "seconds": round(measured.seconds, 1),
        "cpu": {who: round(seconds, 2) for who, seconds in measured.cpu.items()},
        "lookup_ms": _quantiles(measured.lookups, 1000),
        "lookup_of_nodes_ms": _quantiles(measured.of_nodes, 1000),
        "warm_seconds": {how: _quantiles(seconds, 1) for how, seconds in warm.items() if seconds},
        "bytes_through": measured.bytes_through,
        "pack_bytes": sum(one.moved_bytes for one in measured.ended),
        "requests": measured.requests,
        "s3": measured.s3,
        "database": measured.database,
    }


def _quantiles(values: Sequence[float], times: float) -> dict[str, float]:
    return {f"p{n}": round(times * at(values, n / 100), 2) for n in (50, 99)}


def write(data: dict[str, Any]) -> None:
    JSON.write_text(json.dumps(data, indent=1) + "\n")
    page = PAGE.read_text()
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{PAGE} needs the line {BEGIN!r}"
    assert end, f"{PAGE} needs the line {END!r}"
    PAGE.write_text(f"{before}{begin}\n{render(data)}\n{end}{after}")


def render(data: dict[str, Any]) -> str:
    found = data.get("scenarios", {})
    said = [
        f"{data['machine']['cpu']}, {data['machine']['cores']} cores; {data['date']}, commit "
        f"{data['commit']}. Load of the machine before and after: "
        + ", ".join(
            f"{one['load']['before']} and {one['load']['after']} ({name})"
            for name, one in found.items()
        )
        + ".\n",
    ]
    if found:
        said.append(scenarios(found))
    if "costs" in data:
        said += costs(data)
    if "large" in data:
        said += ["The model:\n", large(data["large"])]
    if "pool" in data:
        said += [_POOL, pool(data["pool"])]
    return "\n".join(said)


def costs(data: dict[str, Any]) -> list[str]:
    return [
        "Processor milliseconds of one call, of all replicas and of PostgreSQL, 8 at a time:\n",
        table(
            ("call", "service", "PostgreSQL"),
            [
                (call, f"{one['service']:.1f}", f"{one['database']:.1f}")
                for call, one in data["costs"].items()
            ],
            right=(1, 2),
        ),
        f"One write of the index alone: {1000 * data['write_seconds']:.1f} ms.\n",
    ]


def pool(found: Sequence[dict[str, Any]]) -> str:
    columns = ("database", "connections at most", "clients", "calls a second", "p50 ms", "p99 ms")
    columns = (*columns, "503", "500", "unanswered", "connections seen", "published")
    rows = [
        (
            one["database"],
            str(one["size"]),
            str(one["clients"]),
            f"{1e6 * one['requests'] / one['microseconds']:.0f}",
            f"{one['p50'] / 1000:.0f}",
            f"{one['p99'] / 1000:.0f}",
            *(str(one[what]) for what in ("busy", "broken", "lost", "connections", "published")),
        )
        for one in found
    ]
    return table(columns, rows, right=range(1, len(columns)))


def scenarios(found: dict[str, Any]) -> str:
    """A column each."""
    columns = ("", *found)
    rows = [(what, *cells) for what, cells in _rows(list(found.values()))]
    return table(columns, rows, right=range(1, len(columns)))


def _rows(ones: Sequence[dict[str, Any]]) -> Iterable[tuple[str, list[str]]]:
    def each(what: str, form: Any) -> tuple[str, list[str]]:
        return what, [form(one) for one in ones]

    yield each("starts", lambda one: f"{one['starts']:,}")
    yield each("hits, after waiting", lambda one: f"{one[HIT]}, {one[WAITED]}")
    yield each("compiles", lambda one: str(one[COMPILED]))
    yield each("hit rate", lambda one: f"{100 * one['hit_rate']:.1f} %")
    yield each("compiles avoided", lambda one: str(one["avoided"]))
    yield each("errors", lambda one: str(one["errors"]))
    yield each("outcomes left to the next start", lambda one: str(one["untold"]))
    yield each("seconds to the last end", lambda one: f"{one['seconds']:.0f}")
    yield each("lookup ms, p50 / p99", lambda one: _pair(one["lookup_ms"], 1))
    yield each("of busy nodes, p50 / p99", lambda one: _pair(one["lookup_of_nodes_ms"], 0))
    for how, what in ((HIT, "hit"), (WAITED, "waited"), (COMPILED, "compiled")):
        yield each(
            f"seconds to warm, {what}, p50 / p99",
            lambda one, how=how: _pair(one["warm_seconds"].get(how), 1),
        )
    for who in ones[0]["cpu"]:
        yield each(f"CPU seconds, {who}", lambda one, who=who: f"{one['cpu'][who]:.1f}")
    yield each(
        "CPU ms of the service a start",
        lambda one: f"{1000 * _service_cpu(one) / one['starts']:.0f}",
    )
    yield each("MB of packs to nodes", lambda one: f"{one['pack_bytes'] / 1e6:.0f}")
    yield each(
        "kB a start through the service",
        lambda one: f"{sum(one['bytes_through'].values()) / 1000 / one['starts']:.1f}",
    )
    for who in (NODES, SERVICE):
        yield each(
            f"S3 requests a start, of {who}",
            lambda one, who=who: f"{_s3(one, who) / one['starts']:.2f}",
        )
    yield each(
        "requests to the service a start",
        lambda one: f"{sum(one['requests'].values()) / one['starts']:.1f}",
    )
    yield each("PostgreSQL connections, most", lambda one: str(one["database"]["connections"]))
    yield each(
        "PostgreSQL transactions a start",
        lambda one: f"{one['database']['transactions'] / one['starts']:.1f}",
    )


def _pair(found: dict[str, float] | None, digits: int) -> str:
    return f"{found['p50']:.{digits}f} / {found['p99']:.{digits}f}" if found else ""


def _service_cpu(one: dict[str, Any]) -> float:
    return float(sum(spent for who, spent in one["cpu"].items() if who.startswith("replica")))


def _s3(one: dict[str, Any], who: str) -> int:
    return sum(int(one["s3"][f"s3-{who}-{method}"]["requests"]) for method in METHODS)


def large(cases: Sequence[dict[str, Any]]) -> str:
    limits = list(cases[0]["of_limits"])
    columns = ("", "nodes", "within s", "compiles", "lookup p99 ms", "warm p50 / p99 s", "Gbit/s")
    rows = [
        (
            one["case"],
            f"{one['nodes']:,}",
            f"{one['seconds']:.0f}",
            str(one["compiled"]),
            f"{one['lookup_p99_ms']:,.0f}",
            f"{one['warm_p50']:,.0f} / {one['warm_p99']:,.0f}",
            f"{one['gigabits']:.1f}",
        )
        for one in cases
    ]
    shares = [
        (
            one["case"],
            f"{one['seconds']:.0f}",
            *(f"{one['of_limits'][name]:.2f}" for name in limits),
        )
        for one in cases
    ]
    return "\n".join(
        [
            table(columns, rows, right=range(1, 7)),
            "What the ten worst seconds ask for (of S3 the worst), as a share of what there is:\n",
            table(("", "within s", *limits), shares, right=range(1, 2 + len(limits))),
        ]
    )
