"""docs/benchmarks.md and its file of samples."""

from __future__ import annotations

import json

import pytest

from bench.page import BEGIN, END, JSON, PAGE, page_with
from bench.report import render


def test_the_page_says_what_the_samples_say() -> None:
    page = PAGE.read_text()
    assert page == page_with(page, render(json.loads(JSON.read_text())))


def test_the_generated_part_is_replaced_and_nothing_else() -> None:
    page = f"before\n{BEGIN}old\n{END}after\n"
    assert page_with(page, "new\n") == f"before\n{BEGIN}\nnew\n\n{END}after\n"


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_a_page_that_lost_a_marker_is_not_written(page: str) -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        page_with(page, "new\n")
