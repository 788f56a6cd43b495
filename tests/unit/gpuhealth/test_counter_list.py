"""The counter list that is shipped for dcgm-exporter gives every signal that the shipped rules watch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

COUNTERS = Path(__file__).parents[3] / "charts" / "longhaul-gpuhealth" / "files" / "dcgm-counters.csv"
OLDER_NAMES = {"DCGM_FI_DEV_CLOCK_THROTTLE_REASONS"}
"""Names of the same fields in older exporters; a list must not hold both."""


def test_list_holds_every_signal_of_the_rules_once(rules: Any) -> None:
    lines = [line for line in COUNTERS.read_text().splitlines() if line and not line.startswith("#")]
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    assert all(len(row) == 3 and row[1] in ("gauge", "counter", "label") and row[2] for row in rows)
    names = [row[0] for row in rows]
    assert len(names) == len(set(names))
    watched = {name for name in rules.wanted if name.startswith("DCGM_")} - OLDER_NAMES
    assert watched <= set(names)
