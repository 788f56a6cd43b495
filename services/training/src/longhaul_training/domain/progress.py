"""How far a run is and when it will be done."""

from __future__ import annotations

from dataclasses import dataclass

from longhaul_training.domain.reports import Reports


@dataclass(frozen=True, slots=True)
class RunProgress:
    """Steps made of all, and seconds left at the recent pace; None while the pace is unknown."""

    done: int
    total: int
    steps_per_second: float
    eta_seconds: float | None

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return self.done / self.total if self.total else 0.0


def run_progress(reports: Reports, total_steps: int, goodput: float) -> RunProgress:
    """Progress of the present epoch; the estimate adds the share of time that the run has lost so far."""
    done = max(0, min(reports.step, total_steps))
    if reports.finished_epoch and reports.finished_epoch >= reports.step_epoch:
        done = total_steps
    seconds = reports.median_step_seconds
    if seconds <= 0.0:
        return RunProgress(done, total_steps, 0.0, None)
    useful = min(1.0, max(goodput, 0.5))
    return RunProgress(done, total_steps, 1.0 / seconds, (total_steps - done) * seconds / useful)
