"""One evaluation, a step further: inputs, task, result. Each step may be repeated after a crash without harm.

The name of a score task is written down before the task is asked for, and the same name is the same task, so that an
evaluation has one task at a time however often this service dies.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow
from longhaul_core.errors import Aborted, DataLoss, FailedPrecondition, InvalidArgument, LonghaulError, NotFound
from longhaul_core.failpoints import Failpoints
from longhaul_core.logging import get_logger
from longhaul_core.objects.store import ObjectStore
from longhaul_core.tasks import ManifestReference, ScoreArguments, ScoreResult, ScoreSelection

from longhaul_evaluation.adapters import catalogue
from longhaul_evaluation.adapters.failpoints import Point
from longhaul_evaluation.adapters.instruments import Instruments
from longhaul_evaluation.adapters.objects import TaskFiles, read_result
from longhaul_evaluation.adapters.records import evaluation_of
from longhaul_evaluation.adapters.upstream import (
    LEASE_SECONDS,
    Availability,
    Checkpoints,
    CheckpointView,
    Tasks,
    TaskState,
    TaskView,
    TokenSets,
)
from longhaul_evaluation.domain.evaluation import CHECKPOINT_GONE, Evaluation, Reason, State
from longhaul_evaluation.domain.results import metric_scores

log = get_logger(__name__)


class Room:
    """How many more score tasks may be asked for."""

    def __init__(self, free: int) -> None:
        self._free = free

    def take(self) -> bool:
        """Take a place, if there is one."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True


class Scoring:
    """Advances evaluations."""

    def __init__(
        self,
        db: Database,
        store: ObjectStore,
        clock: Clock,
        checkpoints: Checkpoints,
        token_sets: TokenSets,
        tasks: Tasks,
        attempts: int,
        instruments: Instruments,
        failpoints: Failpoints,
    ) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._checkpoints = checkpoints
        self._token_sets = token_sets
        self._tasks = tasks
        self._attempts = attempts
        self._instruments = instruments
        self._failpoints = failpoints
        self._files = TaskFiles(store)
        self._leased_until: dict[str, float] = {}

    async def advance(self, row: ResourceRow, room: Room) -> None:
        """Take an evaluation one step further.

        Raises:
            LonghaulError: another service does not answer now; nothing is lost, try again later.
        """
        evaluation = evaluation_of(row)
        try:
            if evaluation.state is State.CANCELLING:
                await self._stop(row, evaluation)
            elif evaluation.task:
                await self._follow(row, evaluation)
            else:
                await self._prepare(row, evaluation, room)
        except Aborted:
            log.debug("evaluation changed meanwhile", evaluation=evaluation.name)

    async def _prepare(self, row: ResourceRow, evaluation: Evaluation, room: Room) -> None:
        now = self._clock.now()
        try:
            checkpoint = await self._checkpoints.get(evaluation.spec.checkpoint)
        except NotFound as error:
            await self._save(row, evaluation.wait_for(Reason("CHECKPOINT_NOT_FOUND", error.message)))
            return
        evaluation = replace(
            evaluation, training_run=checkpoint.training_run, step=checkpoint.step, epoch=checkpoint.epoch
        )
        if checkpoint.availability is not Availability.USABLE:
            await self._finish(row, _without_checkpoint(evaluation, checkpoint, now))
            return
        await self._lease(evaluation)
        try:
            token_set = await self._token_sets.get(evaluation.spec.token_set)
        except NotFound as error:
            await self._save(row, evaluation.wait_for(Reason("TOKEN_SET_NOT_FOUND", error.message)))
            return
        try:
            await asyncio.to_thread(self._files.check, token_set, evaluation.spec.tasks)
        except (InvalidArgument, DataLoss, NotFound) as error:
            await self._finish(row, evaluation.fail(_reason(error), now))
            return
        if room.take():
            started = evaluation.start_attempt(now)
            await self._save(row, started)
            self._failpoints.reach(Point.ATTEMPT_AFTER_RECORD)
            await self._create(started, checkpoint, token_set)
        else:
            await self._save(row, replace(evaluation, state=State.QUEUED, reason=None))

    async def _create(self, evaluation: Evaluation, checkpoint: CheckpointView, token_set: ManifestReference) -> None:
        arguments = ScoreArguments(
            checkpoint=ManifestReference(
                name=checkpoint.name, manifest_key=checkpoint.manifest_key, digest=checkpoint.digest
            ),
            token_set=token_set,
            tasks=tuple(
                ScoreSelection(task=selection.task, few_shot=selection.few_shot, limit=selection.limit)
                for selection in evaluation.spec.tasks
            ),
            batch_size=evaluation.spec.batch_size,
            seed=evaluation.spec.seed,
        )
        await self._tasks.create(evaluation.task, arguments, evaluation.result_key)
        self._failpoints.reach(Point.TASK_AFTER_CREATE)

    async def _follow(self, row: ResourceRow, evaluation: Evaluation) -> None:
        try:
            task = await self._tasks.get(evaluation.task)
        except NotFound:
            await self._prepare(row, evaluation.without_task(), Room(1))
            return
        await self._renew(evaluation)
        if task.state in {TaskState.QUEUED, TaskState.RUNNING}:
            await self._save(row, evaluation.follow_task(task.state is TaskState.RUNNING, task.pending))
        elif task.state is TaskState.SUCCEEDED:
            await self._conclude(row, evaluation)
        else:
            reason = _task_failure(evaluation, task)
            await self._fail_attempt(row, evaluation, reason)

    async def _conclude(self, row: ResourceRow, evaluation: Evaluation) -> None:
        now = self._clock.now()
        try:
            result = await asyncio.to_thread(read_result, self._store, evaluation.result_key)
            _check_result(evaluation, result)
            scores = await asyncio.to_thread(metric_scores, result)
        except (NotFound, DataLoss, InvalidArgument) as error:
            await self._fail_attempt(row, evaluation, _reason(error))
            return
        self._failpoints.reach(Point.RESULT_BEFORE_RECORD)
        done = evaluation.succeed(scores, now)
        metrics = {f"{score.task}/{score.few_shot}-shot/{score.metric}": score.value for score in scores}
        try:
            await self._checkpoints.record(evaluation.spec.checkpoint, metrics)
        except LonghaulError as error:
            log.warning("scores not recorded at the checkpoint", evaluation=evaluation.name, reason=error.reason)
        await self._finish(row, done)
        self._failpoints.reach(Point.RESULT_AFTER_RECORD)

    async def _fail_attempt(self, row: ResourceRow, evaluation: Evaluation, reason: Reason) -> None:
        log.warning("score task failed", evaluation=evaluation.name, task=evaluation.task, reason=reason.code)
        self._instruments.attempts_failed.labels(reason.code).inc()
        now = self._clock.now()
        await self._finish(row, evaluation.fail_attempt(reason, budget=self._attempts, now=now))

    async def _stop(self, row: ResourceRow, evaluation: Evaluation) -> None:
        if evaluation.task:
            try:
                task = await self._tasks.cancel(evaluation.task)
            except NotFound:
                task = None
            if task is not None and task.state in {TaskState.QUEUED, TaskState.RUNNING}:
                return
        await self._finish(row, evaluation.cancel(self._clock.now()))

    async def _save(self, row: ResourceRow, evaluation: Evaluation) -> None:
        now = self._clock.now()
        await self._db.run(
            lambda session: catalogue.change_evaluation(
                session, row.project, row.id, lambda _: evaluation, now=now, expected_revision=row.revision
            )
        )

    async def _finish(self, row: ResourceRow, evaluation: Evaluation) -> None:
        await self._save(row, evaluation)
        if evaluation.is_terminal:
            self._count(evaluation)
            log.info("evaluation ended", evaluation=evaluation.name, state=evaluation.state, step=evaluation.step)
            await self._release(evaluation)

    def _count(self, evaluation: Evaluation) -> None:
        self._instruments.ended.labels(evaluation.state).inc()
        if evaluation.start_time is not None and evaluation.end_time is not None:
            self._instruments.seconds.observe((evaluation.end_time - evaluation.start_time).total_seconds())

    async def _lease(self, evaluation: Evaluation) -> None:
        now = self._clock.monotonic()
        if self._leased_until.get(evaluation.uid, 0.0) - now > LEASE_SECONDS * 2 / 3:
            return
        await self._checkpoints.lease(evaluation.spec.checkpoint, _holder(evaluation))
        self._leased_until[evaluation.uid] = now + LEASE_SECONDS

    async def _renew(self, evaluation: Evaluation) -> None:
        """Hold the checkpoint on; where it is damaged or gone meanwhile, the task says so better."""
        try:
            await self._lease(evaluation)
        except (NotFound, FailedPrecondition) as error:
            log.warning("lease not renewed", evaluation=evaluation.name, reason=error.reason)

    async def _release(self, evaluation: Evaluation) -> None:
        self._leased_until.pop(evaluation.uid, None)
        try:
            await self._checkpoints.release(evaluation.spec.checkpoint, _holder(evaluation))
        except LonghaulError as error:
            log.debug("lease not released; it ends by itself", evaluation=evaluation.name, reason=error.reason)


def _holder(evaluation: Evaluation) -> str:
    return f"evaluation/{evaluation.uid}"


def _without_checkpoint(evaluation: Evaluation, checkpoint: CheckpointView, now: datetime) -> Evaluation:
    if checkpoint.availability is Availability.PENDING:
        return evaluation.wait_for(Reason("CHECKPOINT_NOT_COMMITTED", f"{checkpoint.name!r} is not committed yet"))
    if checkpoint.availability is Availability.DAMAGED:
        return evaluation.fail(Reason("CHECKPOINT_DAMAGED", checkpoint.message), now)
    gone = Reason(
        CHECKPOINT_GONE,
        f"{checkpoint.name!r} was deleted before it could be evaluated",
        "keep more checkpoints, or pin those that are to be evaluated",
    )
    return evaluation.cancel(now, gone) if evaluation.suite else evaluation.fail(gone, now)


def _task_failure(evaluation: Evaluation, task: TaskView) -> Reason:
    if task.state is TaskState.CANCELLED:
        return Reason("TASK_CANCELLED", f"score task {evaluation.task!r} was cancelled")
    message = task.message or "the score task failed"
    return Reason(task.reason or "TASK_FAILED", message, "see the logs of the task", {"task": evaluation.task})


def _check_result(evaluation: Evaluation, result: ScoreResult) -> None:
    wanted = {(selection.task, selection.few_shot) for selection in evaluation.spec.tasks}
    scored = {(score.task, score.few_shot) for score in result.scores}
    if wanted != scored or result.step != evaluation.step:
        raise DataLoss(
            f"the result holds {sorted(scored)} of step {result.step}, not {sorted(wanted)} of step {evaluation.step}",
            reason="RESULT_MISMATCH",
            metadata={"key": evaluation.result_key},
        )


def _reason(error: LonghaulError) -> Reason:
    return Reason(error.reason, error.message, error.action, error.metadata)
