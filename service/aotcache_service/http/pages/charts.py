"""Charts: where bars and lines lie, in units of the drawing. The template draws them, and writes
the same numbers as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 180  # of the drawing
_LEFT, _RIGHT, _BOTTOM, _TOP = 64, 24, 22, 8  # margins for the labels
_GAP = 0.25  # of a bar's place
_LABELS = 6  # below the chart
# Seconds that are a round time, below a day.
_TIMES = (1, 2, 5, 10, 20, 30, *(60 * n for n in (1, 2, 5, 10, 20, 30, 60, 120, 180, 360, 720)))
_DAY = 86400


@dataclass(frozen=True, slots=True)
class Span:
    """name, title: as the page says it. buckets: of `size` seconds each."""

    name: str
    title: str
    size: int
    buckets: int

    def starts(self, now: int) -> list[int]:
        """When each bucket begins, the running one last."""
        last = now - now % self.size
        return [last - self.size * back for back in range(self.buckets - 1, -1, -1)]


SPANS = (
    Span("day", "24 hours", 3600, 24),
    Span("week", "7 days", 6 * 3600, 28),
    Span("month", "30 days", 24 * 3600, 30),
)


@dataclass(frozen=True, slots=True)
class Series:
    """values: one for each bucket, None where nothing is known."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    series: int
    start: int
    value: float


@dataclass(frozen=True, slots=True)
class Tick:
    """value: of a line across the chart. at: x or y."""

    at: float
    value: float


@dataclass(frozen=True, slots=True)
class Chart:
    """unit: `count`, `bytes` or `duration`. line: values that stay, not amounts: points of it."""

    title: str
    unit: str
    starts: Sequence[int]
    series: Sequence[Series]
    bars: Sequence[Bar]
    points: Sequence[tuple[float, float]]
    ticks: Sequence[Tick]
    labels: Sequence[Tick]

    @property
    def total(self) -> float:
        return sum(value or 0 for one in self.series for value in one.values)

    @property
    def last(self) -> float:
        """The last value that is known, of the first series."""
        return next((value for value in reversed(self.series[0].values) if value is not None), 0.0)


def bucketed(
    values: Mapping[int, float], span: Span, now: int, *, stays: bool = False
) -> list[float | None]:
    """Hours put together. stays: a value holds until the next one, and the last of a bucket counts;
    else they are added up."""
    starts = span.starts(now)
    found: list[float | None] = [None if stays else 0.0] * len(starts)
    for hour in sorted(values):
        number = (hour - starts[0]) // span.size
        if 0 <= number < len(starts):
            found[number] = values[hour] if stays else (found[number] or 0.0) + values[hour]
    if stays:
        for number in range(1, len(found)):
            if found[number] is None:
                found[number] = found[number - 1]
    return found


def bars(title: str, unit: str, starts: Sequence[int], series: Sequence[Series]) -> Chart:
    """Amounts, one above the other."""
    tops = [sum(max(one.values[i] or 0.0, 0.0) for one in series) for i in range(len(starts))]
    ticks, top = _ticks(max(tops, default=0.0), unit)
    place = (WIDTH - _LEFT - _RIGHT) / max(len(starts), 1)
    found = []
    for i, start in enumerate(starts):
        below = 0.0
        for number, one in enumerate(series):
            value = max(one.values[i] or 0.0, 0.0)
            if value:
                height = _height(value, top)
                y = _y(below + value, top)
                x = _LEFT + place * (i + _GAP / 2)
                found.append(Bar(x, y, place * (1 - _GAP), height, number, start, value))
            below += value
    return Chart(title, unit, starts, series, found, (), ticks, _labels(starts, place))


def line(title: str, unit: str, starts: Sequence[int], one: Series) -> Chart:
    """A value that stays."""
    known = [value for value in one.values if value is not None]
    ticks, top = _ticks(max(known, default=0.0), unit)
    place = (WIDTH - _LEFT - _RIGHT) / max(len(starts), 1)
    points = [
        (_LEFT + place * (i + 0.5), _y(value, top))
        for i, value in enumerate(one.values)
        if value is not None
    ]
    return Chart(title, unit, starts, (one,), (), points, ticks, _labels(starts, place))


def _labels(starts: Sequence[int], place: float) -> list[Tick]:
    step = max(1, math.ceil(len(starts) / _LABELS))
    return [
        Tick(_LEFT + place * (i + 0.5), start)
        for i, start in enumerate(starts)
        if (len(starts) - 1 - i) % step == 0
    ]


def _ticks(largest: float, unit: str) -> tuple[list[Tick], float]:
    """Lines at round values, and the value at the top."""
    if largest <= 0:
        return [Tick(_y(0, 1), 0)], 1.0
    rough = largest / 3
    step = _round(rough, unit)
    lines = math.ceil(largest / step)
    top = lines * step
    return [Tick(_y(step * i, top), step * i) for i in range(lines + 1)], top


def _round(rough: float, unit: str) -> float:
    """The next round value."""
    if unit == "duration" and 1 <= rough <= _TIMES[-1]:
        return next(time for time in _TIMES if time >= rough)
    size = _DAY if unit == "duration" and rough > 1 else 1
    if unit == "count" and rough < 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough / size))
    return next(one for n in (1, 2, 5, 10, 20) if (one := size * power * n) >= rough)


def _height(value: float, top: float) -> float:
    return value / top * (HEIGHT - _TOP - _BOTTOM)


def _y(value: float, top: float) -> float:
    return HEIGHT - _BOTTOM - _height(value, top)
