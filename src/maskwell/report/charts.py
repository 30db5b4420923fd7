"""Line charts as inline SVG that keep legible at every width: lines stretch, words do not.

The plot is an SVG over [0, 1000] x [0, 1000] without an aspect of its own; ticks, marks and legends are
HTML placed in per cent. Colours come from the page's style (``--series-1`` ...).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape

from maskwell.report.history import Floats, Series

SIDE = 1000
COLOURS = 6


@dataclass(frozen=True)
class Line:
    """A curve with a name and a colour of the page, ``1`` to ``COLOURS``."""

    name: str
    series: Series
    colour: int = 1


@dataclass(frozen=True)
class Band:
    """Where a curve is expected: from iteration ``start`` to ``end`` between ``low`` and ``high``."""

    start: float
    end: float
    low: float
    high: float


@dataclass(frozen=True)
class Mark:
    """Where a finding stands: iterations ``start`` to ``end``, its number on the page, its severity."""

    start: float
    end: float
    number: int
    severity: str
    text: str = ""


@dataclass(frozen=True)
class Chart:
    """One plot. ``log``: a logarithmic y axis, where everything is positive; ``until``: the x axis goes from
    the start of the run to there, so that charts beside each other agree.
    """

    title: str
    lines: Sequence[Line]
    bands: Sequence[Band] = ()
    marks: Sequence[Mark] = ()
    log: bool = False
    note: str = ""
    until: float | None = None
    x_label: str = "iteration"

    def svg(self) -> Markup:
        """The chart as HTML; empty where no line has a value."""
        return _Drawing(self).html() if any(len(line.series) for line in self.lines) else Markup("")


@dataclass
class _Scale:
    """Linear or logarithmic map of [low, high] to [0, 1]."""

    low: float
    high: float
    log: bool = False
    ticks: list[float] = field(default_factory=list)

    def __call__(self, value: float) -> float:
        if self.log:
            value = math.log10(max(value, self.low))
            low, high = math.log10(self.low), math.log10(self.high)
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low)


class _Drawing:
    """A chart being drawn."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        self.curves = [(line, *line.series.reduced()) for line in chart.lines if len(line.series)]
        self.y = _y_scale(self.curves, chart)
        steps = np.concatenate([curve[1] for curve in self.curves])
        first, last = float(steps.min()), float(steps.max())
        if chart.until is not None:
            first, last = min(1.0, first), max(chart.until, last)
        self.x = _Scale(first, last) if last > first else _Scale(first - 1, first + 1)
        self.x.ticks = _ticks(self.x.low, self.x.high, 5)

    def html(self) -> Markup:
        chart = self.chart
        legend = ""
        if len(self.curves) > 1:
            entries = "".join(
                f'<span><i style="background:var(--series-{line.colour})"></i>{escape(line.name)}</span>'
                for line, *_ in self.curves
            )
            legend = f'<div class="legend">{entries}</div>'
        note = f'<p class="note">{escape(chart.note)}</p>' if chart.note else ""
        label = escape(f"{chart.title}: {self._in_words()}")
        return Markup(
            f'<figure class="chart"><figcaption>{escape(chart.title)}</figcaption>{legend}'
            f'<div class="plot" data-chart="{escape(self._data())}">'
            f'<svg viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none" role="img" aria-label="{label}">'
            f"{self._grid()}{self._bands()}{self._spans()}{self._paths()}</svg>"
            f"{self._tick_labels()}{self._numbers()}</div>"
            f'<div class="axis">{escape(chart.x_label)}</div>{note}</figure>'
        )

    def _in_words(self) -> str:
        return "; ".join(f"{line.name} ends at {number(line.series.last)}" for line, *_ in self.curves)

    def _data(self) -> str:
        """What the page's script shows under the pointer."""
        lines = [
            {"name": line.name, "colour": line.colour, "x": _rounded(steps), "y": _rounded(mean)}
            for line, steps, mean, *_ in self.curves
        ]
        low, high = self.x.low, self.x.high
        return json.dumps({"low": low, "high": high, "x": self.chart.x_label, "lines": lines})

    def _at(self, step: float, value: float) -> tuple[float, float]:
        x = min(max(self.x(step), 0.0), 1.0)
        y = min(max(self.y(value), 0.0), 1.0)
        return round(x * SIDE, 1), round((1 - y) * SIDE, 1)

    def _grid(self) -> str:
        lines = [f"M0 {self._at(self.x.low, tick)[1]}H{SIDE}" for tick in self.y.ticks]
        return f'<path class="grid" d="{"".join(lines)}"/>'

    def _bands(self) -> str:
        drawn = []
        for band in self.chart.bands:
            left, top = self._at(band.start, band.high)
            right, bottom = self._at(band.end, band.low)
            size = f'width="{max(0.0, round(right - left, 1))}" height="{max(0.0, round(bottom - top, 1))}"'
            drawn.append(f'<rect class="band" x="{left}" y="{top}" {size}/>')
        return "".join(drawn)

    def _spans(self) -> str:
        drawn = []
        for mark in self.chart.marks:
            left, right = self._at(mark.start, self.y.low)[0], self._at(mark.end, self.y.low)[0]
            drawn.append(
                f'<rect class="span {mark.severity}" x="{left}" y="0" '
                f'width="{max(0.0, round(right - left, 1))}" height="{SIDE}"/>'
                f'<path class="rule {mark.severity}" d="M{left} 0V{SIDE}"/>'
            )
        return "".join(drawn)

    def _paths(self) -> str:
        drawn = []
        for line, steps, mean, low, high in self.curves:
            stroke = f'style="stroke:var(--series-{line.colour})"'
            if not np.array_equal(low, high, equal_nan=True):
                fill = f'style="fill:var(--series-{line.colour})"'
                drawn.append(f'<path class="spread" {fill} d="{self._area(steps, low, high)}"/>')
            drawn.append(f'<path class="line" {stroke} d="{self._polyline(steps, mean)}"/>')
            if len(steps) <= 40:  # single points are otherwise no more than a corner
                dots = "".join(
                    f"M{x} {y}h0.01"
                    for x, y in (self._at(*p) for p in zip(steps, mean, strict=True) if np.isfinite(p[1]))
                )
                drawn.append(f'<path class="dots" {stroke} d="{dots}"/>')
        return "".join(drawn)

    def _polyline(self, steps: Floats, values: Floats) -> str:
        """A path that is broken where a value is missing."""
        parts, pen = [], "M"
        for step, value in zip(steps, values, strict=True):
            if not np.isfinite(value):
                pen = "M"
                continue
            x, y = self._at(step, value)
            parts.append(f"{pen}{x} {y}")
            pen = "L"
        return "".join(parts)

    def _area(self, steps: Floats, low: Floats, high: Floats) -> str:
        known = np.isfinite(low) & np.isfinite(high)
        upper = [self._at(*p) for p in zip(steps[known], high[known], strict=True)]
        lower = [self._at(*p) for p in zip(steps[known], low[known], strict=True)]
        return "M" + "L".join(f"{x} {y}" for x, y in [*upper, *reversed(lower)]) + "Z"

    def _tick_labels(self) -> str:
        rows = "".join(
            f'<span class="y" style="top:{round((1 - self.y(tick)) * 100, 2)}%">{number(tick)}</span>'
            for tick in self.y.ticks
        )
        columns = "".join(
            f'<span class="x" style="left:{round(self.x(tick) * 100, 2)}%">{number(tick)}</span>'
            for tick in self.x.ticks
        )
        return rows + columns

    def _numbers(self) -> str:
        return "".join(
            f'<a class="mark {mark.severity}" style="left:{self._at(mark.start, self.y.low)[0] / SIDE:.2%}" '
            f'href="#finding-{mark.number}" title="{escape(mark.text)}">{mark.number}</a>'
            for mark in self.chart.marks
        )


def _y_scale(curves: Sequence[tuple[Line, Floats, Floats, Floats, Floats]], chart: Chart) -> _Scale:
    """A scale that shows every mean; rare extremes of a noisy series may lie beyond it."""
    means = np.concatenate([mean[np.isfinite(mean)] for _, _, mean, _, _ in curves])
    lows = np.concatenate([low[np.isfinite(low)] for *_, low, _ in curves])
    highs = np.concatenate([high[np.isfinite(high)] for *_, high in curves])
    if not len(means):
        return _Scale(0.0, 1.0, ticks=[0.0, 1.0])
    low = min(float(means.min()), float(np.quantile(lows, 0.02)))
    high = max(float(means.max()), float(np.quantile(highs, 0.98)))
    inside = [band for band in chart.bands if band.low <= high * 3]  # far bands would flatten the curve
    high = max([high, *(min(band.high, high * 3) for band in inside)])
    if chart.log and low > 0:
        low = min([low, *(band.low for band in inside if band.low > 0)])
        scale = _Scale(low / 1.1, high * 1.1, True)
        scale.ticks = _log_ticks(scale.low, scale.high)
        return scale
    low = min([low, *(band.low for band in inside)])
    if 0 < low < 0.4 * high:
        low = 0.0
    margin = (high - low or abs(high) or 1.0) * 0.05
    scale = _Scale(low if low == 0 else low - margin, high + margin)
    scale.ticks = _ticks(scale.low, scale.high, 4)
    return scale


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers in [low, high], ``about`` as many as asked."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    count = int((high - math.ceil(low / step) * step) / step + 1e-9) + 1
    return [round((math.ceil(low / step) + index) * step, 12) for index in range(max(1, count))]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(decades) > 3 else (1, 2, 5)
    ticks = [10.0**decade * factor for decade in decades for factor in factors]
    inside = [tick for tick in ticks if low <= tick <= high]
    stride = max(1, -(-len(inside) // 6))
    return inside[::stride] or [low, high]


def number(value: float) -> str:
    """A number as people write it: ``1,200``, ``0.0123``, ``2e-05``."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}" if size < 1e6 else f"{value:.3g}"
    if value == int(value):
        return str(int(value))
    return f"{value:.4g}" if size >= 0.001 else f"{value:.2g}"


def _rounded(values: Floats) -> list[float | None]:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]
