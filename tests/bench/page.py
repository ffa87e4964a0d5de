"""The page and the file of samples in docs/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.report import render

DOCS = Path(__file__).parents[2] / "docs"
JSON = DOCS / "benchmarks.json"
PAGE = DOCS / "benchmarks.md"
BEGIN = "<!-- made by `make bench` from benchmarks.json: do not edit -->\n"
END = "<!-- end of what `make bench` makes -->\n"


def page_with(page: str, made: str) -> str:
    """The page with its generated part replaced. Raises ValueError if it has lost a marker."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} needs the lines {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n{made}\n{end}{after}"


def write(data: dict[str, Any]) -> None:
    """Keep the samples, bring the page up to date."""
    JSON.write_text(json.dumps(data, indent=1) + "\n")
    PAGE.write_text(page_with(PAGE.read_text(), render(data)))
