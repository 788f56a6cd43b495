"""The counter list that is shipped for dcgm-exporter gives every signal that the shipped rules watch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

CHARTS = Path(__file__).parents[3] / "charts"
OLDER_NAMES = {"DCGM_FI_DEV_CLOCK_THROTTLE_REASONS"}
"""Names of the same fields in older exporters; a list must not hold both."""


@pytest.mark.parametrize("chart", ["longhaul-gpuhealth", "longhaul"])
def test_list_holds_every_signal_of_the_rules_once(rules: Any, chart: str) -> None:
    text = (CHARTS / chart / "files" / "dcgm-counters.csv").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    assert all(len(row) == 3 and row[1] in ("gauge", "counter", "label") and row[2] for row in rows)
    names = [row[0] for row in rows]
    assert len(names) == len(set(names))
    watched = {name for name in rules.wanted if name.startswith("DCGM_")} - OLDER_NAMES
    assert watched <= set(names)
