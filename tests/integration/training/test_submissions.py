"""Submissions while replicas of the controller are killed; `make bench-control` does it a thousand times."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "bench"
RUNS, KILLS = 60, 2

pytestmark = pytest.mark.timeout(600)


async def test_no_run_is_lost_or_doubled_while_replicas_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    from submissions import submit_under_kills

    outcome = await submit_under_kills(tmp_path, RUNS, 1.0, KILLS)
    assert outcome.kills >= KILLS
    assert outcome.lost == []
    assert outcome.doubled == []
    assert outcome.failed == []
    assert outcome.unsettled == []
