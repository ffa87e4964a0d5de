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
    "pull": ("pull eight, loopback", "pull eight, 10 ms more"),
    "publish": ("first publish", "publish again, unchanged"),
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

    data = json.loads(path.read_text())
    runs = {
        what: contestants
        for part in data["parts"].values()
        for what, contestants in part["runs"].items()
    }
    for name, wanted in PLOTS.items():
        titles = [what for what in wanted if what in runs]
        if not titles:
            continue
        figure, all_axes = pyplot.subplots(
            1, len(titles), figsize=(7 * len(titles), 3.6), squeeze=False, layout="constrained"
        )
        for axes, what in zip(all_axes[0], titles, strict=True):
            _bars(axes, what, runs[what])
        figure.savefig(path.with_name(f"benchmarks-{name}.png"), dpi=110, metadata={"Software": ""})
        pyplot.close(figure)


def _bars(axes: Any, what: str, contestants: dict[str, list[dict[str, float]]]) -> None:
    """Medians on a logarithmic scale, the slowest on top, each run a dot."""
    taken = {who: [sample["seconds"] for sample in samples] for who, samples in contestants.items()}
    order = sorted(taken, key=lambda who: median(taken[who]))
    for place, who in enumerate(order):
        ours = who.startswith("aotcache")
        middle = median(taken[who])
        axes.barh(place, middle, color=_OURS if ours else _THEIRS)
        axes.plot(taken[who], [place] * len(taken[who]), "k.", markersize=3)
        axes.annotate(
            f" {middle:.2f} s",
            (max(taken[who]), place),
            va="center",
            xytext=(4, 0),
            textcoords="offset points",
        )
    axes.set_yticks(range(len(order)), order)
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_xlabel("seconds, logarithmic")
    axes.set_title(what)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
