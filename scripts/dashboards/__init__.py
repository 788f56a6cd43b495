"""Grafana dashboards, made by code: panels in plain Python, JSON by `make docs`."""

from dashboards.engineer import engineer
from dashboards.grafana import render
from dashboards.operator import operator

DASHBOARDS = {"operator": operator, "run": engineer}
"""File name without suffix, and what is in it."""


def dashboard_pages() -> dict[str, str]:
    """The JSON of each dashboard by file name."""
    return {f"{name}.json": render(make()) for name, make in DASHBOARDS.items()}
