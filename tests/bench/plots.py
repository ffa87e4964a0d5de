"""Plots of docs/benchmarks.json, as PNG beside it.

Drawn by the tools' environment, which has matplotlib: `plots.py JSON`. Reads nothing of ours but
that file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

_OURS, _THEIRS = "#1f6feb", "#9aa4af"
# What is drawn, and its file beside the JSON.
PLOTS = {
    "pull": ("pull eight, loopback, seconds", "pull eight, 10 ms more, seconds"),
    "publish": ("first publish, seconds", "publish again, unchanged, seconds"),
    "memory": ("peak MB over the interpreter, pull", "peak MB over the interpreter, publish"),
    "bytes": (
        "stored MB",
        "MB of one rank's pull",
        "MB of a second generation",
        "MB of a neighbour",
    ),
}


def draw(path: Path) -> None:
    """In a process of the environment that has matplotlib."""
    from bench.peers import TOOLS

    python = TOOLS / "bin" / "python"
    if not python.exists():
        sys.exit(f"no plots: {python} is missing: make env-bench")
    subprocess.run([str(python), __file__, str(path)], check=True)


def main(path: Path) -> None:
    import matplotlib  # type: ignore[import-not-found]

    matplotlib.use("agg")
    from matplotlib import pyplot

    found = _values(json.loads(path.read_text()))
    for name, wanted in PLOTS.items():
        titles = [what for what in wanted if what in found]
        if not titles:
            continue
        rows = -(-len(titles) // 2)
        columns = min(len(titles), 2)
        figure, grid = pyplot.subplots(
            rows, columns, figsize=(7 * columns, 3.6 * rows), squeeze=False, layout="constrained"
        )
        for axes, what in zip(grid.flat, titles, strict=False):
            _bars(axes, what, found[what])
        figure.savefig(path.with_name(f"benchmarks-{name}.png"), dpi=110, metadata={"Software": ""})
        pyplot.close(figure)


def _values(data: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """By what and who: seconds of each run, or the one number."""
    found: dict[str, dict[str, list[float]]] = {}
    for part in data["parts"].values():
        for what, contestants in part["runs"].items():
            found[f"{what}, seconds"] = {
                who: [sample["seconds"] for sample in samples]
                for who, samples in contestants.items()
            }
        for what, counts in part["numbers"].items():
            found[what] = {who: [count] for who, count in counts.items()}
    return found


def _bars(axes: Any, what: str, taken: dict[str, list[float]]) -> None:
    """Medians, the largest on top, each run a dot. Logarithmic where they differ tenfold."""
    order = sorted(taken, key=lambda who: median(taken[who]))
    middles = [median(taken[who]) for who in order]
    colors = [_OURS if who.startswith("aotcache") else _THEIRS for who in order]
    axes.barh(range(len(order)), middles, color=colors)
    for place, (who, middle) in enumerate(zip(order, middles, strict=True)):
        several = len(taken[who]) > 1
        axes.plot(taken[who], [place] * len(taken[who]), "k." if several else "", markersize=3)
        axes.annotate(
            f"{middle:.3g}",
            (max(taken[who]), place),
            va="center",
            xytext=(6, 0),
            textcoords="offset points",
        )
    axes.set_yticks(range(len(order)), order)
    if middles[0] > 0 and middles[-1] > 10 * middles[0]:
        axes.set_xscale("log")
        axes.set_xlabel("logarithmic")
    axes.margins(x=0.2)
    axes.set_title(what)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
