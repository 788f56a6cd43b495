"""Compares runs that name a reference run with it, and tells when one falls behind or has caught up."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from longhaul_core.clock import Clock
from longhaul_core.db import Database, resources
from longhaul_core.errors import Aborted, LonghaulError, NotFound
from longhaul_core.ids import ANY_PROJECT, parse_name
from longhaul_core.logging import get_logger
from longhaul_core.recipe import TrainerConfig

from longhaul_training.adapters import run_store
from longhaul_training.adapters.leadership import Leadership
from longhaul_training.adapters.report_store import ReportStore
from longhaul_training.adapters.run_store import RunStore, StoredRun
from longhaul_training.convert.runs import model_shape
from longhaul_training.domain.actions import RunEvent
from longhaul_training.domain.planning.sizing import size_model
from longhaul_training.domain.reference import (
    BEHIND,
    DEFAULT_MARGIN,
    WINDOW_STEPS,
    Gap,
    equal_tokens,
    measure_gap,
    step_at,
)
from longhaul_training.domain.states import RunState

INTERVAL_SECONDS = 5.0

log = get_logger(__name__)


class ReferenceKeeper:
    """Compares while this replica leads."""

    def __init__(
        self, db: Database, runs: RunStore, reports: ReportStore, leadership: Leadership, clock: Clock
    ) -> None:
        self._db = db
        self._runs = runs
        self._reports = reports
        self._leadership = leadership
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Compares every few seconds until `stop` is set."""
        while not stop.is_set():
            term = self._leadership.term
            if term is not None:
                await self.compare_all(term.number)
            try:
                await asyncio.wait_for(stop.wait(), INTERVAL_SECONDS)
            except TimeoutError:
                continue

    async def compare_all(self, term: int) -> None:
        """One round over all running runs that name a reference."""
        try:
            rows = await self._db.read(
                lambda session: resources.list_all(
                    session, run_store.KIND, project=ANY_PROJECT, states=[RunState.RUNNING.value]
                )
            )
            for row in rows:
                if row.spec.get("reference_run"):
                    await self._compare(run_store.load(row), term)
        except Aborted as error:
            log.info("run changed meanwhile", error=str(error))
        except LonghaulError as error:
            log.warning("runs not compared with their references", error=str(error))

    async def _compare(self, stored: StoredRun, term: int) -> None:
        gap = await self._gap(stored)
        if gap is None:
            return
        spec, control = stored.row.spec, stored.run.control
        name, margin = spec["reference_run"], float(spec.get("reference_margin", 0.0)) or DEFAULT_MARGIN
        told = BEHIND in control.noticed
        data = {"loss": gap.loss, "reference": gap.reference, "tokens": gap.tokens, "run": name}
        if gap.behind > margin and not told:
            text = f"loss {gap.loss:.4f} is {gap.behind:.4f} above that of {name} after {gap.tokens} of its tokens"
            event = RunEvent(BEHIND, "REFERENCE", text, data)
            changed = replace(control, noticed=(*control.noticed, BEHIND))
            await self._runs.commit(stored, changed, (event,), term)
        elif gap.behind <= margin / 2 and told:
            event = RunEvent("CAUGHT_UP_WITH_REFERENCE", "REFERENCE", f"no longer behind {name}", data)
            changed = replace(control, noticed=tuple(n for n in control.noticed if n != BEHIND))
            await self._runs.commit(stored, changed, (event,), term)

    async def _gap(self, stored: StoredRun) -> Gap | None:
        spec = stored.row.spec
        name = parse_name(spec["reference_run"], "trainingRuns", "spec.reference_run")
        try:
            reference = await self._runs.get(name.project, name.id)
        except NotFound:
            return None
        sizes = [_parameters(run) for run in (stored, reference)]
        tokens = equal_tokens(stored.reports.tokens, spec.get("reference_basis", "tokens"), *sizes)
        step = step_at(tokens, reference.reports.high_step, reference.reports.tokens)
        if not step:
            return None
        own = await self._losses(stored, stored.reports.step)
        return measure_gap(own, await self._losses(reference, step), tokens)

    async def _losses(self, stored: StoredRun, step: int) -> list[float]:
        run = stored.run
        rows = await self._reports.history(run.project, run.id, run.uid, max(-1, step - WINDOW_STEPS), WINDOW_STEPS)
        return [float(row.values["loss"]) for row in rows if "loss" in row.values]


def _parameters(stored: StoredRun) -> int:
    config = TrainerConfig.model_validate(stored.row.spec["trainer_config"])
    return size_model(model_shape(config)).parameters
