"""Answers that are computed from finished evaluations: comparisons and curves."""

from __future__ import annotations

import asyncio

from longhaul_core.db import Database
from longhaul_core.db.session import Session
from longhaul_core.errors import DataLoss, FailedPrecondition, NotFound
from longhaul_core.ids import ResourceName
from longhaul_core.objects.store import ObjectStore
from longhaul_core.tasks import ScoreResult, TaskScore

from longhaul_evaluation.adapters import catalogue
from longhaul_evaluation.adapters.objects import read_result
from longhaul_evaluation.adapters.records import evaluation_of
from longhaul_evaluation.domain.curve import CurvePoint, TaskQuality, curve, qualities
from longhaul_evaluation.domain.evaluation import Evaluation, State
from longhaul_evaluation.domain.results import paired_differences
from longhaul_evaluation.domain.statistics import PairedDifference


class Reports:
    """Reads scores; changes nothing."""

    def __init__(self, db: Database, store: ObjectStore) -> None:
        self._db = db
        self._store = store

    async def compare(
        self, first: ResourceName, second: ResourceName, *, task: str, seed: int
    ) -> list[tuple[TaskScore, PairedDifference]]:
        """Compare two evaluations item by item: second minus first.

        Raises:
            NotFound: one of the two does not exist.
            FailedPrecondition: one has not succeeded (EVALUATION_NOT_SUCCEEDED), or they do not pair (NOT_COMPARABLE).
            DataLoss: the stored items are missing or malformed.
        """

        def look(session: Session) -> list[Evaluation]:
            return [evaluation_of(catalogue.get_evaluation(session, name.project, name.id)) for name in (first, second)]

        evaluations = await self._db.read(look)

        def compute() -> list[tuple[TaskScore, PairedDifference]]:
            before, after = [self._result(evaluation) for evaluation in evaluations]
            return paired_differences(before, after, task=task, seed=seed)

        return await asyncio.to_thread(compute)

    async def curve(self, run: ResourceName) -> tuple[list[CurvePoint], list[TaskQuality]]:
        """Return the scores of a run over its steps, and the quality of each task."""
        rows = await self._db.read(lambda session: catalogue.evaluations_of_run(session, run.project, str(run)))
        points = curve([it for it in map(evaluation_of, rows) if it.state is State.SUCCEEDED])
        return points, qualities(points)

    def _result(self, evaluation: Evaluation) -> ScoreResult:
        if evaluation.state is not State.SUCCEEDED:
            raise FailedPrecondition(
                f"evaluation {evaluation.id!r} is {evaluation.state}, not SUCCEEDED",
                reason="EVALUATION_NOT_SUCCEEDED",
                metadata={"evaluation": evaluation.name, "state": evaluation.state},
                action="wait until it has succeeded",
            )
        try:
            return read_result(self._store, evaluation.result_key)
        except NotFound as error:
            raise DataLoss(
                f"the items of evaluation {evaluation.id!r} are missing: {evaluation.result_key!r}",
                reason="RESULT_MISSING",
                metadata={"key": evaluation.result_key},
            ) from error
