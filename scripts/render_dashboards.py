"""Draw the dashboards as SVG from a running Prometheus: the previews in docs/images, by the queries of Grafana.

Usage: python scripts/render_dashboards.py --prometheus http://127.0.0.1:9090 --start UNIX --end UNIX \
    --variable project=default --variable run=python-docs --variable node='.*'
"""

from __future__ import annotations

import argparse
import html
import json
import math
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DASHBOARDS = ROOT / "charts" / "longhaul" / "files" / "dashboards"
IMAGES = ROOT / "docs" / "images"
COLUMN, LINE, GAP = 60, 34, 8
POINTS = 100
LEGEND_ENTRIES = 6
TABLE_ROWS = 7
COLOURS = ("#3274d9", "#e0752d", "#56a64b", "#b877d9", "#e02f44", "#f2cc0c", "#5794f2", "#8f8f8f", "#19aa9a", "#a35c1f")
STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:12px}.r{font-weight:600;"
    "font-size:14px}.s{font-size:26px;font-weight:600}.g{stroke:#e3e6ea}.m{fill:#6b7280;font-size:10px}"
    ".p{fill:#fff;stroke:#d5d9df}polyline{fill:none;stroke-width:1.4}"
)


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name, its labels, and (time, value) pairs."""

    name: str
    labels: dict[str, str]
    points: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where values come from, over which time, and what the dashboard's variables stand for."""

    url: str
    start: float
    end: float
    variables: dict[str, str]

    @property
    def step(self) -> int:
        """Seconds between two points."""
        return max(1, math.ceil((self.end - self.start) / POINTS))

    def series(self, target: dict[str, Any]) -> list[Series]:
        """Every series of a query with at least one finite value."""
        expression = target["expr"]
        for name, value in {**self.variables, "__rate_interval": "15s"}.items():
            expression = expression.replace(f"${name}", value)
        window = {"start": self.start, "end": self.end, "step": self.step}
        parameters = urllib.parse.urlencode({"query": expression, **window})
        with urllib.request.urlopen(f"{self.url}/api/v1/query_range?{parameters}", timeout=20) as answer:  # noqa: S310
            found = json.load(answer)["data"]["result"]
        read = [_series(item, target["legendFormat"]) for item in found]
        return [series for series in read if series.points]


def _series(item: dict[str, Any], legend: str) -> Series:
    labels: dict[str, str] = item["metric"]
    name = legend
    for label in ("task", "few_shot", "metric", *labels):
        name = name.replace(f"{{{{{label}}}}}", labels.get(label, ""))
    if legend == "__auto":
        name = ", ".join(
            f"{key}={value}" for key, value in labels.items() if key not in ("__name__", "instance", "job")
        )
    points = [(float(time), float(value)) for time, value in item["values"]]
    return Series(name, labels, [(time, value) for time, value in points if math.isfinite(value)])


def draw(dashboard: dict[str, Any], source: Source) -> str:
    """The whole page."""
    panels = dashboard["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * LINE + 2 * GAP + 30
    width = 24 * COLUMN + 2 * GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#f4f5f7"/>',
        f'<text class="r" x="{GAP + 4}" y="24">{html.escape(dashboard["title"])}</text>',
    ]
    for panel in panels:
        parts += _panel(panel, source)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: dict[str, Any], source: Source) -> Iterator[str]:
    place = panel["gridPos"]
    x, y = place["x"] * COLUMN + GAP, place["y"] * LINE + GAP + 30
    width, height = place["w"] * COLUMN - GAP, place["h"] * LINE - GAP
    if panel["type"] == "row":
        yield f'<text class="r" x="{x + 4}" y="{y + 18}">{html.escape(panel["title"])}</text>'
        return
    yield f'<rect class="p" x="{x}" y="{y}" width="{width}" height="{height}" rx="3"/>'
    yield f'<text class="t" x="{x + 8}" y="{y + 17}">{html.escape(panel["title"])}</text>'
    series = [one for target in panel["targets"] for one in source.series(target)]
    kinds: dict[str, Callable[..., Iterator[str]]] = {"timeseries": _lines, "stat": _stat, "table": _table}
    if not series:
        yield f'<text class="m" x="{x + 8}" y="{y + 40}">no data</text>'
        return
    yield from kinds[panel["type"]](panel, series, source, (x + 8, y + 26, width - 16, height - 32))


Box = tuple[float, float, float, float]


def _lines(panel: dict[str, Any], series: Sequence[Series], source: Source, box: Box) -> Iterator[str]:
    x, y, width, height = box[0], box[1] + 8, box[2], box[3] - 8
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    logarithmic = defaults["custom"]["scaleDistribution"]["type"] == "log"
    lines = list(_stacked(series)) if stacked else [one.points for one in series]
    low, high = _limits([value for line in lines for _, value in line], zero=stacked)
    if logarithmic and low > 0:
        low, high, lines = math.log10(low), math.log10(high), [_logged(line) for line in lines]
    left, plot = x + 50, height - 18
    for index in range(3):
        value, at = low + (high - low) * index / 2, y + plot - plot * index / 2
        text = _format(10**value if logarithmic else value, defaults["unit"])
        yield f'<line class="g" x1="{left}" x2="{x + width}" y1="{at:.0f}" y2="{at:.0f}"/>'
        yield f'<text class="m" x="{x + 44}" y="{at + 3:.0f}" text-anchor="end">{text}</text>'
    span = source.end - source.start
    for index, line in enumerate(lines):
        for piece in _pieces(line, source.step):
            dots = " ".join(
                f"{left + (time - source.start) / span * (x + width - left):.0f},"
                f"{y + plot - (value - low) / (high - low) * plot:.0f}"
                for time, value in piece
            )
            yield f'<polyline points="{dots}" stroke="{COLOURS[index % len(COLOURS)]}"/>'
    yield from _legend(series, x, y + height, width)


def _pieces(line: list[tuple[float, float]], step: float) -> Iterator[list[tuple[float, float]]]:
    """The parts of a line between its gaps."""
    piece: list[tuple[float, float]] = []
    for point in line:
        if piece and point[0] - piece[-1][0] > 1.5 * step:
            yield piece
            piece = []
        piece.append(point)
    yield piece


def _legend(series: Sequence[Series], x: float, y: float, width: float) -> Iterator[str]:
    shown = series[:LEGEND_ENTRIES]
    share = width / len(shown)
    room = max(6, int(share / 6.2) - 3)
    for index, one in enumerate(shown):
        name = one.name if len(one.name) <= room else f"…{one.name[1 - room :]}"
        at = x + index * share
        yield f'<rect x="{at:.0f}" y="{y - 7:.0f}" width="8" height="3" fill="{COLOURS[index % len(COLOURS)]}"/>'
        yield f'<text class="m" x="{at + 11:.0f}" y="{y - 2:.0f}">{html.escape(name)}</text>'


def _stat(panel: dict[str, Any], series: Sequence[Series], source: Source, box: Box) -> Iterator[str]:
    x, y, _, height = box
    last = max(series, key=lambda one: one.points[-1][0])
    named = panel["targets"][0]["legendFormat"] != "__auto"
    text = last.name if named else _format(last.points[-1][1], panel["fieldConfig"]["defaults"]["unit"])
    yield f'<text class="s" x="{x}" y="{y + height / 2 + 8:.0f}">{html.escape(text)}</text>'


def _table(panel: dict[str, Any], series: Sequence[Series], source: Source, box: Box) -> Iterator[str]:
    x, y, width, _ = box
    newest = max(one.points[-1][0] for one in series)
    rows = [one.labels for one in series if one.points[-1][0] == newest]
    columns = sorted({label for row in rows for label in row})
    step = width / len(columns)
    for index, column in enumerate(columns):
        yield f'<text class="m" x="{x + index * step:.0f}" y="{y + 10:.0f}">{html.escape(column)}</text>'
    for line, row in enumerate(rows[:TABLE_ROWS]):
        for index, column in enumerate(columns):
            at = y + 28 + line * 18
            yield f'<text x="{x + index * step:.0f}" y="{at:.0f}">{html.escape(row.get(column, ""))}</text>'


def _stacked(series: Sequence[Series]) -> Iterator[list[tuple[float, float]]]:
    total: dict[float, float] = {}
    for one in series:
        for time, value in one.points:
            total[time] = total.get(time, 0.0) + value
        yield [(time, total[time]) for time, _ in one.points]


def _logged(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(time, math.log10(value)) for time, value in line if value > 0]


def _limits(values: Sequence[float], *, zero: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    low = min(0.0, low) if zero else low
    return (low, high) if high > low else (low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1)


def _format(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "percent":
        return f"{value:.3g} %"
    if unit == "s":
        return (
            f"{value * 1000:.3g} ms"
            if abs(value) < 1
            else f"{value:.3g} s"
            if abs(value) < 120
            else f"{value / 60:.3g} min"
        )
    suffixes = {"bytes": "B", "Bps": "B/s", "ops": "/s", "hertz": "Hz", "celsius": "°C", "watt": "W"}
    size = next((size for size in (1e9, 1e6, 1e3) if abs(value) >= size), 1.0)
    prefix = {1e9: "G", 1e6: "M", 1e3: "k", 1.0: ""}[size]
    return f"{value / size:.3g} {prefix}{suffixes.get(unit, '')}".strip()


def main() -> None:
    """Draw every dashboard."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--start", type=float, required=True)
    parser.add_argument("--end", type=float, required=True)
    parser.add_argument("--variable", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    variables = dict(pair.split("=", 1) for pair in given.variable)
    source = Source(given.prometheus, given.start, given.end, variables)
    for path in sorted(DASHBOARDS.glob("*.json")):
        target = IMAGES / f"dashboard-{path.stem}.svg"
        target.write_text(draw(json.loads(path.read_text()), source), encoding="utf-8")
        print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1024:.0f} KiB")  # noqa: T201


if __name__ == "__main__":
    main()
