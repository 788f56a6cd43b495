"""How wrong the run's earlier ETAs were. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from longhaul_training.domain.goodput import ledger
from longhaul_training.domain.progress import run_progress
from longhaul_training.domain.reports import Reports
from longhaul_training.domain.states import Forecast, Run

KEPT_FORECASTS = 64
LEAST_SECONDS = 30.0
# Forecasts are made this often over a run, at most.
PARTS = 50


def new_forecast(run: Run, reports: Reports, now: float) -> tuple[Forecast, ...] | None:
    """The forecasts with one more, when one is due."""
    control = run.control
    if not run.spec.steps or control.started_at is None:
        return None
    last = control.forecasts[-1] if control.forecasts else None
    if last is not None and now - last.at < max(LEAST_SECONDS, (last.end - control.started_at) / PARTS):
        return None
    goodput = ledger(control.time, control.state, reports.worker_time, now).goodput
    eta = run_progress(reports, run.spec.steps, goodput).eta_seconds
    return (*control.forecasts, Forecast(now, now + eta))[-KEPT_FORECASTS:] if eta is not None else None


def forecast_error(forecasts: Iterable[Forecast], end: float) -> float:
    """Mean of |predicted end - end| over the time that was left then; `end`: the actual end or newest estimate."""
    errors = [abs(f.end - end) / (end - f.at) for f in forecasts if end - f.at > 1.0]
    return sum(errors) / len(errors) if errors else 0.0
