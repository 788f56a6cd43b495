"""Experiments in the database, and the loop that keeps their comparison up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import Aborted, LonghaulError
from longhaul_core.logging import get_logger

from longhaul_training.adapters import codec, run_store
from longhaul_training.adapters.leadership import Leadership, check_term, is_stale
from longhaul_training.adapters.report_store import ReportStore
from longhaul_training.adapters.run_store import StoredRun
from longhaul_training.domain import verbs
from longhaul_training.domain.experiments import BASELINE, Arm, ExperimentState, compare, experiment_state, winner

KIND = "experiment"
INTERVAL_SECONDS = 2.0
METRIC_ROWS = 1_000_000
LIVE_STATES = ("QUEUED", "RUNNING", "CANCELLING")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ArmRequest:
    """A run of an experiment, ready to be accepted."""

    id: str
    run_id: str
    spec: Mapping[str, Any]
    fingerprint: str


class ExperimentStore:
    """Reads and writes experiments."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def create(
        self,
        project: str,
        experiment_id: str,
        spec: Mapping[str, Any],
        arms: Sequence[ArmRequest],
        fingerprint: str,
        request_id: str,
    ) -> ResourceRow:
        """Accepts an experiment with all its runs, or nothing of it; raises AlreadyExists (SPEC_DIFFERS)."""
        now = self._clock.now()
        status = {"arms": [{"id": arm.id, "run": arm.run_id} for arm in arms], "cancelled": False, "winner": ""}

        def transact(session: Session) -> ResourceRow:
            row, created = resources.create(
                session,
                kind=KIND,
                project=project,
                id=experiment_id,
                spec=dict(spec),
                state=ExperimentState.QUEUED.value,
                status=status,
                fingerprint=fingerprint,
                request_id=request_id,
                now=now,
            )
            if created:
                for arm in arms:
                    run_store.insert(session, project, arm.run_id, arm.spec, arm.fingerprint, "", now)
            return row

        return await self._db.run(transact)

    async def get(self, project: str, experiment_id: str) -> ResourceRow:
        """Reads an experiment; raises NotFound."""
        return await self._db.read(lambda session: resources.get(session, KIND, project, experiment_id))

    async def cancel(self, project: str, experiment_id: str) -> ResourceRow:
        """Records the wish for the experiment and for each of its runs, all at once."""
        now = self._clock.now()

        def transact(session: Session) -> ResourceRow:
            row = resources.get(session, KIND, project, experiment_id, for_update=True)
            if row.status["cancelled"] or row.state not in LIVE_STATES:
                return row
            for arm in row.status["arms"]:
                run_row = resources.get(session, run_store.KIND, project, arm["run"])
                desired = verbs.cancel(codec.load_run(run_row))
                status = {**run_row.status, "desired": codec.dump_desired(desired)}
                resources.update(session, run_row, status=status, now=now)
            status = {**row.status, "cancelled": True}
            return resources.update(session, row, state=ExperimentState.CANCELLING.value, status=status, now=now)

        return await self._db.run(transact)

    async def live(self) -> list[ResourceRow]:
        """Experiments that are not over."""
        return await self._db.read(lambda session: resources.list_all(session, KIND, states=LIVE_STATES))

    async def runs_of(self, row: ResourceRow) -> dict[str, StoredRun]:
        """The runs of an experiment by arm."""

        def read(session: Session) -> dict[str, ResourceRow]:
            arms = row.status["arms"]
            return {arm["id"]: resources.get(session, run_store.KIND, row.project, arm["run"]) for arm in arms}

        return {arm: run_store.load(found) for arm, found in (await self._db.read(read)).items()}

    async def update(self, row: ResourceRow, state: ExperimentState, arms: Sequence[Any], best: str, term: int) -> None:
        """Writes the comparison where it differs from what is stored; raises Aborted."""
        now = self._clock.now()
        status = {**row.status, "arms": list(arms), "winner": best}
        if status == row.status and state.value == row.state:
            return

        def transact(session: Session) -> None:
            check_term(session, term)
            resources.update(session, row, state=state.value, status=status, now=now)

        await self._db.run(transact)


class ExperimentKeeper:
    """Compares the arms of live experiments while this replica leads."""

    def __init__(
        self, experiments: ExperimentStore, reports: ReportStore, leadership: Leadership, clock: Clock
    ) -> None:
        self._experiments = experiments
        self._reports = reports
        self._leadership = leadership
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Compares every few seconds until `stop` is set."""
        while not stop.is_set():
            term = self._leadership.term
            if term is not None:
                await self._round(term.number)
            try:
                await asyncio.wait_for(stop.wait(), INTERVAL_SECONDS)
            except TimeoutError:
                continue

    async def _round(self, term: int) -> None:
        try:
            for row in await self._experiments.live():
                await self.compare(row, term)
        except Aborted as error:
            if not is_stale(error):
                log.info("experiment changed meanwhile", error=str(error))
        except LonghaulError as error:
            log.warning("experiments not compared", error=str(error))

    async def compare(self, row: ResourceRow, term: int) -> None:
        """Brings one experiment up to date."""
        runs = await self._experiments.runs_of(row)
        losses = {arm: await self._losses(arm, stored) for arm, stored in runs.items()}
        baseline = losses[BASELINE]
        comparisons = {c.id: c for c in compare(baseline, list(losses.values()))}
        arms = [
            {
                "id": arm,
                "run": stored.run.id,
                "state": stored.run.control.state.value,
                "step": comparisons[arm].step if arm in comparisons else 0,
                "validation_loss": comparisons[arm].validation_loss if arm in comparisons else 0.0,
                "difference": comparisons[arm].difference if arm in comparisons else 0.0,
            }
            for arm, stored in runs.items()
        ]
        state = experiment_state(
            {arm: stored.run.control.state for arm, stored in runs.items()}, bool(row.status["cancelled"])
        )
        effect = float(row.spec["minimum_effect"])
        best = winner(baseline, list(comparisons.values()), effect) if state is ExperimentState.SUCCEEDED else ""
        await self._experiments.update(row, state, arms, best, term)

    async def _losses(self, arm: str, stored: StoredRun) -> Arm:
        run = stored.run
        rows = await self._reports.history(run.project, run.id, run.uid, -1, METRIC_ROWS)
        return Arm(arm, {row.step: row.values["validation_loss"] for row in rows if "validation_loss" in row.values})
