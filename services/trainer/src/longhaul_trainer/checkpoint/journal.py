"""Keeps metric rows safe beside the checkpoints: a committed checkpoint never runs ahead of the rows of its steps."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from longhaul.training.v1 import agent_pb2
from longhaul_core.metric_journal import JournalSpan
from longhaul_core.objects import ObjectStore

from longhaul_trainer.checkpoint.saver import Saved
from longhaul_trainer.loop.report import Reporter
from longhaul_trainer.metrics import step_metrics
from longhaul_trainer.wire import Phase, StepRow


class MetricJournal:
    """Rows of one epoch of rank 0 that no checkpoint covers yet."""

    def __init__(self, store: ObjectStore, project: str, run_id: str, epoch: int) -> None:
        self._store = store
        self._project = project
        self._run_id = run_id
        self._epoch = epoch
        self._rows: list[StepRow] = []
        self._lock = threading.Lock()

    def add(self, row: StepRow) -> None:
        """Takes a row."""
        with self._lock:
            self._rows.append(row)

    def write(self, through_position: int) -> None:
        """Puts the rows up to a checkpoint into the store; may be repeated after an error."""
        with self._lock:
            rows = [row for row in self._rows if row.position <= through_position]
        if not rows:
            return
        span = JournalSpan(rows[0].position, rows[-1].position, self._epoch)
        batch = agent_pb2.StepMetricsBatch(rows=[step_metrics(row, self._epoch) for row in rows])
        self._store.put(span.key(self._project, self._run_id), batch.SerializeToString())
        with self._lock:
            del self._rows[: len(rows)]


class JournalingReporter:
    """Reports as another reporter does, and keeps each row for the journal."""

    def __init__(self, reporter: Reporter, journal: MetricJournal) -> None:
        self._reporter = reporter
        self._journal = journal

    def phase(self, phase: Phase, step: int, own_seconds: float = 0.0) -> None:
        """What the worker does from now on."""
        self._reporter.phase(phase, step, own_seconds)

    def row(self, row: StepRow) -> None:
        """Metrics of a step."""
        self._journal.add(row)
        self._reporter.row(row)

    def event(self, kind: str, cause: str, message: str, data: Mapping[str, str | float]) -> None:
        """Something worth an event of the run."""
        self._reporter.event(kind, cause, message, data)

    def committed(self, saved: Saved) -> None:
        """A checkpoint was committed."""
        self._reporter.committed(saved)

    def finished(self, step: int) -> None:
        """The run is complete."""
        self._reporter.finished(step)
