"""Where a worker's news go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from longhaul_trainer.checkpoint.saver import Saved
from longhaul_trainer.wire import Phase, StepRow


class Reporter(Protocol):
    """The agent, as the loop sees it."""

    def phase(self, phase: Phase, step: int, own_seconds: float = 0.0) -> None:
        """What the worker does from now on, and the time of the last step that the rank spent on its own work."""
        ...

    def row(self, row: StepRow) -> None:
        """Metrics of a step; rank 0 only."""
        ...

    def event(self, kind: str, cause: str, message: str, data: Mapping[str, str | float]) -> None:
        """Something worth an event of the run."""
        ...

    def committed(self, saved: Saved) -> None:
        """A checkpoint was committed; rank 0 only."""
        ...

    def finished(self, step: int) -> None:
        """All steps are made and the last checkpoint is committed; rank 0 only."""
        ...
