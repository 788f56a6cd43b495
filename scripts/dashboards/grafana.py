"""The few parts of Grafana's dashboard model that are used here, and their JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

COLUMNS = 24
ROW_HEIGHT = 1
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 39


class Kind(StrEnum):
    """How a panel shows its values."""

    LINES = "timeseries"
    STACK = "stack"
    STAT = "stat"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL query; `legend` is a template of label names."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """Where a click on a value leads; the URL may use ${__field.labels.NAME} or ${__data.fields.NAME}."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. Units are Grafana's names."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = Kind.LINES
    width: int = 8
    height: int = 7
    help: str = ""
    log_scale: bool = False
    link: Link | None = None
    hidden_columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A titled row of panels."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top, filled by a query such as `label_values(metric, label)`."""

    name: str
    query: str
    multiple: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page."""

    uid: str
    title: str
    help: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]
    links: tuple[Link, ...] = field(default=())

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in their order."""
        return tuple(panel for row in self.rows for panel in row.panels)


def render(dashboard: Dashboard) -> str:
    """The dashboard as Grafana imports it."""
    return json.dumps(_dashboard(dashboard), indent=1, ensure_ascii=False) + "\n"


def _dashboard(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.help,
        "tags": ["longhaul"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_data_source(), *(_variable(variable) for variable in dashboard.variables)]},
        "annotations": {"list": []},
        "links": [{"type": "link", "title": link.title, "url": link.url, "keepTime": True} for link in dashboard.links],
        "panels": _placed(dashboard.rows),
    }


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}}


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name,
        "label": variable.name.capitalize(),
        "type": "query",
        "datasource": DATA_SOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "definition": variable.query,
        "refresh": 2,
        "sort": 1,
        "multi": variable.multiple,
        "includeAll": variable.multiple,
        "allValue": ".*" if variable.multiple else None,
        "current": {"text": "All", "value": "$__all"} if variable.multiple else {},
    }


def _placed(rows: tuple[Row, ...]) -> list[dict[str, Any]]:
    """Panels from left to right; a new line where the next one does not fit."""
    placed: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": ROW_HEIGHT},
            }
        )
        y += ROW_HEIGHT
        x = line_height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, line_height = 0, y + line_height, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            placed.append(_panel(panel, len(placed) + 1, place))
            x, line_height = x + panel.width, max(line_height, panel.height)
        y += line_height
    return placed


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    kind = Kind.LINES if panel.kind is Kind.STACK else panel.kind
    return {
        "id": number,
        "type": kind.value,
        "title": panel.title,
        "description": panel.help,
        "datasource": DATA_SOURCE,
        "gridPos": place,
        "targets": [_target(query, index, panel.kind) for index, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel.kind),
        **_transformed(panel),
    }


def _target(query: Query, index: int, kind: Kind) -> dict[str, Any]:
    target: dict[str, Any] = {
        "refId": chr(ord("A") + index),
        "datasource": DATA_SOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
    }
    if kind in (Kind.STAT, Kind.TABLE):
        target |= {"instant": True, "range": False}
    if kind is Kind.TABLE:
        target["format"] = "table"
    return target


def _defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.kind in (Kind.LINES, Kind.STACK):
        stacked = panel.kind is Kind.STACK
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 40 if stacked else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if stacked else "none"},
            "scaleDistribution": {"type": "log", "log": 10} if panel.log_scale else {"type": "linear"},
        }
    if panel.link is not None:
        defaults["links"] = [{"title": panel.link.title, "url": panel.link.url}]
    return defaults


def _options(kind: Kind) -> dict[str, Any]:
    if kind is Kind.STAT:
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "auto", "colorMode": "none"}
    if kind is Kind.TABLE:
        return {"showHeader": True}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}


def _transformed(panel: Panel) -> dict[str, Any]:
    if panel.kind is not Kind.TABLE:
        return {}
    hidden = dict.fromkeys(("Time", "__name__", "instance", "job", *panel.hidden_columns), True)
    return {
        "transformations": [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": hidden}},
        ]
    }
