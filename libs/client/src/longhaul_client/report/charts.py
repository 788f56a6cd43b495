"""Charts as inline SVG: no script is needed to read them; a small one adds the values under the pointer."""

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

WIDTH, HEIGHT = 720, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 18, 34
MAXIMUM_POINTS = 800


@dataclass(frozen=True, slots=True)
class Series:
    """A line, or points with error bars, in one colour class (s1 to s5)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = "s1"
    errors: Sequence[float] = ()
    dots: bool = False
    line: bool = True


@dataclass(frozen=True, slots=True)
class Marker:
    """A vertical line with a label: something happened here."""

    x: float
    label: str


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line with a label: something to compare with."""

    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart with its axes."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    markers: Sequence[Marker] = ()
    levels: Sequence[Level] = ()
    from_zero: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """One part of a stacked or a ranked bar."""

    label: str
    value: float
    text: str
    colour: str = "s1"


@dataclass(slots=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float
    ticks: list[float] = field(default_factory=list)

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(chart: Chart) -> str:
    """Return a chart as a figure; series without points are left out."""
    shown = [series for series in chart.series if len(series.x)]
    if not shown:
        return f'<figure class="chart empty"><figcaption>{_text(chart.title)}</figcaption><p>no data yet</p></figure>'
    shown = [_thin(series) for series in shown]
    x_axis, y_axis = _axes(chart, shown)
    body = [
        *_grid(x_axis, y_axis, chart),
        *(_level(level, y_axis) for level in chart.levels),
        *_marker_lines(chart.markers, x_axis),
        *(part for series in shown for part in _series(series, x_axis, y_axis)),
    ]
    legend = "".join(f'<span class="{s.colour}">{_text(s.name)}</span>' for s in shown)
    data = {
        "x": [x_axis.low, x_axis.high],
        "series": [{"name": s.name, "x": [*s.x], "y": [float(f"{y:.6g}") for y in s.y]} for s in shown],
    }
    embedded = html.escape(json.dumps(data), quote=True)
    return (
        f'<figure class="chart" data-chart="{embedded}"><figcaption>{_text(chart.title)}'
        f'<span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(chart.title)}">{"".join(body)}'
        f'<line class="pointer" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg><output></output></figure>'
    )


def stacked_bar(bars: Sequence[Bar]) -> str:
    """Return shares of a whole as one bar with a legend below."""
    whole = sum(bar.value for bar in bars)
    if not whole:
        return '<p class="quiet">no data yet</p>'
    parts = "".join(
        f'<i class="fill {bar.colour}" style="width:{100 * bar.value / whole:.3f}%" title="{_text(bar.label)}"></i>'
        for bar in bars
        if bar.value
    )
    legend = "".join(
        f'<li><b class="fill {bar.colour}"></b>{_text(bar.label)} <em>{_text(bar.text)}</em></li>' for bar in bars
    )
    return f'<div class="stack">{parts}</div><ul class="stack-legend">{legend}</ul>'


def ranked_bars(bars: Sequence[Bar]) -> str:
    """Return bars below one another, on one scale."""
    largest = max((bar.value for bar in bars), default=0) or 1
    rows = "".join(
        f'<tr><th>{_text(bar.label)}</th><td><i class="fill {bar.colour}" '
        f'style="width:{100 * bar.value / largest:.2f}%"></i></td><td class="number">{_text(bar.text)}</td></tr>'
        for bar in bars
    )
    return f'<table class="bars">{rows}</table>'


def _axes(chart: Chart, shown: Sequence[Series]) -> tuple[_Axis, _Axis]:
    xs = [x for series in shown for x in series.x]
    lows, highs = [], []
    for series in shown:
        errors = series.errors or [0.0] * len(series.y)
        lows += [y - 2 * e for y, e in zip(series.y, errors, strict=True)]
        highs += [y + 2 * e for y, e in zip(series.y, errors, strict=True)]
    lows += [level.y for level in chart.levels]
    highs += [level.y for level in chart.levels]
    low, high = (0.0 if chart.from_zero else min(lows)), max(highs)
    pad = (high - low or abs(high) or 1.0) * 0.06
    x_low, x_high = min(xs), max(xs)
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1
    x_axis = _Axis(x_low, x_high, LEFT, WIDTH - RIGHT)
    y_axis = _Axis(low if chart.from_zero else low - pad, high + pad, HEIGHT - BOTTOM, TOP)
    x_axis.ticks, y_axis.ticks = _ticks(x_axis.low, x_axis.high, 7), _ticks(y_axis.low, y_axis.high, 5)
    return x_axis, y_axis


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Return round values inside a range, about as many as asked for."""
    raw = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


def _grid(x_axis: _Axis, y_axis: _Axis, chart: Chart) -> list[str]:
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.place(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in x_axis.ticks:
        x = x_axis.place(tick)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_number(tick)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{_text(chart.x_label)}</text>'
    )
    parts.append(f'<text class="label" x="{LEFT - 48}" y="{TOP - 7}">{_text(chart.y_label)}</text>')
    return parts


def _level(level: Level, y_axis: _Axis) -> str:
    y = y_axis.place(level.y)
    return (
        f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="level" x="{WIDTH - RIGHT - 4}" y="{y - 4:.1f}" text-anchor="end">{_text(level.label)}</text>'
    )


def _marker_lines(markers: Sequence[Marker], x_axis: _Axis) -> list[str]:
    parts = []
    for index, marker in enumerate(markers):
        x = x_axis.place(min(max(marker.x, x_axis.low), x_axis.high))
        anchor, offset = ("end", -4) if x > WIDTH * 0.7 else ("start", 4)
        y = TOP + 10 + 13 * (index % 3)
        parts.append(f'<line class="marker" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="marker" x="{x + offset:.1f}" y="{y}" text-anchor="{anchor}">{_text(marker.label)}</text>'
        )
    return parts


def _series(series: Series, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    places = [(x_axis.place(x), y_axis.place(y)) for x, y in zip(series.x, series.y, strict=True)]
    parts = []
    if series.line and len(places) > 1:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {series.colour}" points="{points}"/>')
    for error, value, (x, _) in zip(series.errors, series.y, places, strict=False):
        low, high = y_axis.place(value - 2 * error), y_axis.place(value + 2 * error)
        parts.append(f'<line class="error {series.colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
    if series.dots or len(places) == 1:
        parts += [f'<circle class="dot {series.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
    return parts


def _thin(series: Series) -> Series:
    """Keep of each bucket of points its lowest and its highest, so that spikes stay visible."""
    if len(series.x) <= MAXIMUM_POINTS or series.errors:
        return series
    bucket = math.ceil(len(series.x) / (MAXIMUM_POINTS // 2))
    kept: list[int] = []
    for start in range(0, len(series.x), bucket):
        members = range(start, min(start + bucket, len(series.x)))
        kept += sorted({min(members, key=lambda i: series.y[i]), max(members, key=lambda i: series.y[i])})
    return replace(series, x=[series.x[i] for i in kept], y=[series.y[i] for i in kept])


def _number(value: float) -> str:
    if value == 0:
        return "0"
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def _text(text: str) -> str:
    return html.escape(text)
