"""Suites: each commit of a run becomes one evaluation, however often the streams break or this service dies.

The cursor into the checkpoint service's changes is written in the transaction that creates the evaluation, and the
evaluation's id follows from suite and checkpoint, so that a change seen twice is evaluated once. When the run has ended
its checkpoints are listed once more, and only then may the suite end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow
from longhaul_core.db.session import Session
from longhaul_core.errors import FailedPrecondition, LonghaulError, NotFound
from longhaul_core.failpoints import Failpoints
from longhaul_core.ids import new_uid
from longhaul_core.logging import get_logger

from longhaul_evaluation.adapters import catalogue
from longhaul_evaluation.adapters.failpoints import Point
from longhaul_evaluation.adapters.records import evaluation_of, suite_of
from longhaul_evaluation.adapters.upstream import Availability, Checkpoints, CheckpointView, Runs, RunState
from longhaul_evaluation.adapters.waking import Alarm
from longhaul_evaluation.domain.evaluation import CHECKPOINT_GONE, Evaluation, Reason, State
from longhaul_evaluation.domain.suite import SeenCheckpoint, Suite, count

log = get_logger(__name__)


class Suites:
    """Advances suites and creates their evaluations."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        checkpoints: Checkpoints,
        runs: Runs,
        evaluations: Alarm,
        failpoints: Failpoints,
    ) -> None:
        self._db = db
        self._clock = clock
        self._checkpoints = checkpoints
        self._runs = runs
        self._evaluations = evaluations
        self._failpoints = failpoints

    async def advance(self, row: ResourceRow) -> None:
        """Take a suite one step further."""
        suite = suite_of(row)
        if suite.state is State.CANCELLING:
            await self._cancel_evaluations(suite)
        elif not suite.complete:
            await self._look_at_run(suite)
        await self._settle(suite)

    async def reopen(self, row: ResourceRow) -> None:
        """Put an ended suite to work again if its failed run was retried."""
        suite = suite_of(row)
        if suite.run_failed and await self._runs.state(suite.spec.training_run) is RunState.OPEN:
            await self._change(suite, Suite.reopen)

    async def follow(self, project: str, identifier: str) -> None:
        """Create evaluations from the stream of commits until the suite needs no more of them."""
        while True:
            row = await self._db.read(lambda session: catalogue.get_suite(session, project, identifier))
            suite = suite_of(row)
            if suite.is_terminal or suite.complete or suite.state is State.CANCELLING:
                return
            await self._follow_once(suite)

    async def _follow_once(self, suite: Suite) -> None:
        changes = self._checkpoints.watch(suite.project, suite.spec.training_run, suite.checkpoint_revision)
        try:
            async for checkpoint, revision in changes:
                if checkpoint is not None and suite.is_due(checkpoint.step):
                    await self._see(suite, checkpoint, revision)
        except FailedPrecondition as error:
            if error.reason != "REVISION_AHEAD":
                raise
            log.warning("checkpoint revisions started anew", suite=suite.id)
            await self._change(suite, lambda current: replace(current, checkpoint_revision=0))

    async def _see(self, suite: Suite, checkpoint: CheckpointView, revision: int) -> None:
        if checkpoint.availability is Availability.PENDING or not checkpoint.was_committed:
            return
        self._failpoints.reach(Point.SUITE_BEFORE_RECORD)
        seen = _seen(checkpoint)
        now = self._clock.now()

        def transact(session: Session) -> bool:
            current = suite_of(catalogue.get_suite(session, suite.project, suite.id))
            if current.is_terminal or current.state is State.CANCELLING:
                return False
            _, created = catalogue.create_evaluation(session, self._evaluation(suite, seen), now)
            catalogue.change_suite(
                session,
                suite.project,
                suite.id,
                lambda it: replace(it, checkpoint_revision=max(revision, it.checkpoint_revision)),
                now=now,
            )
            return created

        if await self._db.run(transact):
            log.info("evaluation created", suite=suite.id, checkpoint=checkpoint.name)
        self._failpoints.reach(Point.SUITE_AFTER_RECORD)
        self._evaluations.ring()

    async def _look_at_run(self, suite: Suite) -> None:
        try:
            state = await self._runs.state(suite.spec.training_run)
        except NotFound as error:
            reason = Reason("TRAINING_RUN_NOT_FOUND", error.message)
            await self._change(suite, lambda it: replace(it, state=State.WAITING_FOR_INPUTS, reason=reason))
            return
        if state is RunState.OPEN:
            await self._change(suite, lambda it: replace(it, state=State.RUNNING, reason=None))
            return
        checkpoints = await self._checkpoints.list(suite.project, suite.spec.training_run)
        await self._complete(suite, [_seen(it) for it in checkpoints], state)

    async def _complete(self, suite: Suite, checkpoints: Sequence[SeenCheckpoint], state: RunState) -> None:
        now = self._clock.now()

        def transact(session: Session) -> None:
            for seen in suite.due_at_the_end(checkpoints):
                catalogue.create_evaluation(session, self._evaluation(suite, seen), now)
            catalogue.change_suite(
                session,
                suite.project,
                suite.id,
                lambda it: replace(
                    it, state=State.RUNNING, reason=None, complete=True, run_failed=state is RunState.FAILED
                ),
                now=now,
            )

        await self._db.run(transact)
        self._evaluations.ring()

    async def _cancel_evaluations(self, suite: Suite) -> None:
        now = self._clock.now()

        def transact(session: Session) -> None:
            for row in catalogue.evaluations_of_suite(session, suite.project, suite.id):
                catalogue.change_evaluation(session, row.project, row.id, Evaluation.request_cancel, now=now)

        await self._db.run(transact)
        self._evaluations.ring()

    async def _settle(self, suite: Suite) -> None:
        now = self._clock.now()

        def transact(session: Session) -> None:
            rows = catalogue.evaluations_of_suite(session, suite.project, suite.id)
            counts = count([evaluation_of(row) for row in rows])
            catalogue.change_suite(session, suite.project, suite.id, lambda it: it.settle(counts), now=now)

        await self._db.run(transact)

    async def _change(self, suite: Suite, change: Callable[[Suite], Suite]) -> None:
        now = self._clock.now()

        def guarded(current: Suite) -> Suite:
            return current if current.state is State.CANCELLING else change(current)

        await self._db.run(lambda session: catalogue.change_suite(session, suite.project, suite.id, guarded, now=now))

    def _evaluation(self, suite: Suite, seen: SeenCheckpoint) -> Evaluation:
        identifier = suite.evaluation_id(seen.name.rpartition("/")[2])
        evaluation = Evaluation(
            project=suite.project,
            id=identifier,
            uid=new_uid(),
            spec=suite.evaluation_spec(seen.name),
            training_run=suite.spec.training_run,
            step=seen.step,
            epoch=seen.epoch,
            suite=suite.id,
        )
        if seen.available:
            return evaluation
        gone = Reason(CHECKPOINT_GONE, f"{seen.name!r} was deleted before it could be evaluated")
        return evaluation.cancel(self._clock.now(), gone)


class Followers:
    """One stream of commits a suite at work."""

    def __init__(self, suites: Suites, retry_seconds: float) -> None:
        self._suites = suites
        self._retry_seconds = retry_seconds
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}

    def follow(self, rows: Sequence[ResourceRow]) -> None:
        """Follow the runs of these suites and of no others. Raises what a stream raised that is no outage."""
        wanted = {(row.project, row.id) for row in rows}
        for key in [key for key, task in self._running.items() if task.done()]:
            self._running.pop(key).result()
        for key in wanted - self._running.keys():
            self._running[key] = asyncio.create_task(self._follow(*key))
        for key in self._running.keys() - wanted:
            self._running.pop(key).cancel()

    async def close(self) -> None:
        """End all streams."""
        running = list(self._running.values())
        self.follow([])
        await asyncio.gather(*running, return_exceptions=True)

    async def _follow(self, project: str, identifier: str) -> None:
        while True:
            try:
                await self._suites.follow(project, identifier)
                return
            except LonghaulError as error:
                log.debug("stream of commits interrupted", suite=identifier, reason=error.reason)
            await asyncio.sleep(self._retry_seconds)


def _seen(checkpoint: CheckpointView) -> SeenCheckpoint:
    available = checkpoint.availability is not Availability.GONE
    return SeenCheckpoint(checkpoint.name, checkpoint.step, checkpoint.epoch, available)
