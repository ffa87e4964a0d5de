"""Where bars, lines and labels lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotcache_service.http.pages.charts import (
    HEIGHT,
    SPANS,
    WIDTH,
    Series,
    bars,
    bucketed,
    line,
)

HOUR = 3600
NOW = 1_800_000_000
values = st.floats(0, 1e18, allow_nan=False)


@given(
    st.lists(st.lists(values, min_size=3, max_size=3), max_size=4),
    st.sampled_from(("count", "bytes", "duration")),
)
def test_all_lies_inside_the_drawing(series: list[list[float]], unit: str) -> None:
    chart = bars("x", unit, (0, 1, 2), [Series("s", one) for one in series])
    for bar in chart.bars:
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH
        assert -1e-6 <= bar.y <= bar.y + bar.height <= HEIGHT
    assert 1 <= len(chart.ticks) <= 5
    assert all(0 <= tick.at <= HEIGHT for tick in chart.ticks)
    largest = max((sum(one[i] for one in series) for i in range(3)), default=0.0)
    assert chart.ticks[-1].value >= largest * (1 - 1e-9)


@pytest.mark.parametrize(
    ("unit", "largest", "ticks"),
    [
        ("count", 1, [0, 1]),
        ("count", 4500, [0, 2000, 4000, 6000]),
        ("bytes", 2.5e9, [0, 1e9, 2e9, 3e9]),
        ("duration", 100, [0, 60, 120]),
        ("duration", 2.5 * HOUR, [0, HOUR, 2 * HOUR, 3 * HOUR]),
        ("duration", 20 * 24 * HOUR, [0, 10 * 24 * HOUR, 20 * 24 * HOUR]),
    ],
)
def test_lines_are_at_round_values(unit: str, largest: float, ticks: list[float]) -> None:
    chart = bars("x", unit, (0,), [Series("s", [largest])])
    assert [tick.value for tick in chart.ticks] == ticks


def test_hours_are_put_together() -> None:
    day, week, _ = SPANS
    last = NOW - NOW % HOUR
    assert bucketed({last: 3, last - HOUR: 2}, day, NOW)[-3:] == [0, 2, 3]
    assert sum(v or 0 for v in bucketed({last - 30 * HOUR: 5}, day, NOW)) == 0
    assert sum(v or 0 for v in bucketed({last - 30 * HOUR: 5, last: 1}, week, NOW)) == 6
    stays = bucketed({last - 3 * HOUR: 7, last - HOUR: 9}, day, NOW, stays=True)
    assert stays[-5:] == [None, 7, 7, 9, 9]
    chart = line("x", "bytes", day.starts(NOW), Series("s", stays))
    assert len(chart.points) == 4
    assert chart.last == 9
