"""The newest scores of each run, as Prometheus sees them; followed by revision, the same on every replica."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import LonghaulError
from longhaul_core.ids import ANY_PROJECT
from longhaul_core.logging import get_logger
from longhaul_core.metrics import Metrics

from longhaul_evaluation.adapters.records import EVALUATION_KIND, evaluation_of
from longhaul_evaluation.adapters.waking import Alarm
from longhaul_evaluation.domain.evaluation import Evaluation, MetricScore, State

log = get_logger(__name__)

SHOWN_DAYS = 7
BATCH = 500
INTERVAL_SECONDS = 2.0

Series = tuple[str, str, str, str, str]


class Scoreboard:
    """Keeps of each run, task, number of shots and metric the score of the highest step."""

    def __init__(self, db: Database, clock: Clock, metrics: Metrics, alarm: Alarm) -> None:
        self._db = db
        self._clock = clock
        self._alarm = alarm
        self._revision = 0
        self._best: dict[Series, tuple[Evaluation, MetricScore]] = {}
        labels = ("project", "run", "task", "few_shot", "metric")
        self._score = metrics.table("score", "Score of a run's newest evaluated checkpoint.", labels)
        self._error = metrics.table("score_standard_error", "Standard error of that score.", labels)
        self._step = metrics.table("score_step", "Step of the checkpoint that was scored.", labels)

    async def run(self) -> None:
        """Look again and again until the service stops."""
        while not self._alarm.stopped:
            try:
                await self.look()
            except LonghaulError as error:
                log.warning("scores not read", reason=error.reason, error=error.message)
            await self._alarm.wait(INTERVAL_SECONDS)

    async def look(self) -> None:
        """Read what changed and show the newest scores."""
        while True:
            rows = await self._db.read(self._changes)
            for row in rows:
                self._revision = row.revision
                if row.state == State.SUCCEEDED and not row.deleted:
                    self._take(evaluation_of(row))
            if len(rows) < BATCH:
                break
        oldest = self._clock.now() - timedelta(days=SHOWN_DAYS)
        shown = {key: found for key, found in self._best.items() if _ended(found[0]) > oldest}
        self._score.show({key: score.value for key, (_, score) in shown.items()})
        self._error.show({key: s.standard_error for key, (_, s) in shown.items() if not math.isnan(s.standard_error)})
        self._step.show({key: evaluation.step for key, (evaluation, _) in shown.items()})

    def _changes(self, session: Session) -> list[ResourceRow]:
        return resources.changes(session, EVALUATION_KIND, ANY_PROJECT, self._revision, BATCH)

    def _take(self, evaluation: Evaluation) -> None:
        run = evaluation.training_run.rpartition("/")[2] or "-"
        for score in evaluation.scores:
            key = (evaluation.project, run, score.task, str(score.few_shot), score.metric)
            known = self._best.get(key)
            if known is None or known[0].step <= evaluation.step:
                self._best[key] = (evaluation, score)


def _ended(evaluation: Evaluation) -> datetime:
    assert evaluation.end_time is not None, "an evaluation that succeeded has ended"
    return evaluation.end_time
