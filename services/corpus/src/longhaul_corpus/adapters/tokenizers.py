"""Moves tokenizers on that were asked for by themselves: imported, or trained on whole datasets."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.db import Claim, Database, ResourceRow, queue, resources
from longhaul_core.db.session import Session
from longhaul_core.engine.protocol import Task
from longhaul_core.ids import Collection, ResourceName

from longhaul_corpus.adapters.inputs import Inputs
from longhaul_corpus.adapters.records import TOKENIZER, Job, dump_inputs, move, object_prefix, reason, reason_of_failure
from longhaul_corpus.adapters.tasks import import_tokenizer, train_tokenizer
from longhaul_corpus.adapters.upstream import Lost, Pending
from longhaul_corpus.domain.jobs import JobState

IMPORT, TRAIN = "import", "train"
_TASKS: dict[str, Task] = {IMPORT: import_tokenizer, TRAIN: train_tokenizer}


class Tokenizers:
    """Steps of tokenizers: wait for the datasets, one work item, done."""

    def __init__(self, db: Database, clock: Clock, inputs: Inputs) -> None:
        self._db = db
        self._clock = clock
        self._inputs = inputs

    async def step(self, row: ResourceRow) -> bool:
        """Move one tokenizer as far as it goes now; tells whether its state changed."""
        state = JobState(row.state)
        if state is JobState.QUEUED and row.spec["import_key"]:
            return await self._change(row, lambda session, current, now: _start(session, current, now, IMPORT, []))
        if state in (JobState.QUEUED, JobState.WAITING_FOR_INPUTS):
            return await self._wait(row)
        if state is JobState.RUNNING:
            return await self._advance(row)
        return False

    async def _wait(self, row: ResourceRow) -> bool:
        found = await self._inputs.find_datasets(tuple(row.spec["datasets"]))
        if isinstance(found, Lost):
            return await self._end(row, reason(found.code, found.message, found.action))
        if isinstance(found, Pending):
            return await self._explain(row, reason(found.code, found.message))
        inputs = dump_inputs(found)
        return await self._change(row, lambda session, current, now: _start(session, current, now, TRAIN, inputs))

    async def _explain(self, row: ResourceRow, why: dict[str, Any]) -> bool:
        if row.state == JobState.WAITING_FOR_INPUTS and row.status.get("reason") == why:
            return False

        def note(session: Session, current: ResourceRow, now: datetime) -> None:
            status = {**current.status, "reason": why}
            move(session, current, JobState.WAITING_FOR_INPUTS, status, now, cause=why["code"], message=why["message"])

        await self._change(row, note)
        return False

    async def _advance(self, row: ResourceRow) -> bool:
        job, phase = str(Job.of(row)), str(row.status["phase"])
        failures = await self._db.read(lambda session: queue.failures(session, job, phase))
        if failures:
            return await self._end(row, reason_of_failure(failures[0]))
        results = await self._db.read(lambda session: queue.results(session, job, phase))
        if not results:
            return False

        def succeed(session: Session, current: ResourceRow, now: datetime) -> None:
            status = {**current.status, **results[0], "reason": None}
            move(session, current, JobState.SUCCEEDED, status, now, cause="MANIFEST_COMMITTED")
            queue.discard(session, job)

        return await self._change(row, succeed)

    async def _end(self, row: ResourceRow, why: dict[str, Any]) -> bool:
        def end(session: Session, current: ResourceRow, now: datetime) -> None:
            queue.discard(session, str(Job.of(current)))
            status = {**current.status, "reason": why}
            move(session, current, JobState.FAILED, status, now, cause=why["code"], message=why["message"])

        return await self._change(row, end)

    async def _change(self, row: ResourceRow, change: Callable[[Session, ResourceRow, datetime], None]) -> bool:
        now = self._clock.now()

        def transact(session: Session) -> bool:
            current = resources.get(session, TOKENIZER, row.project, row.id, for_update=True)
            if current.revision != row.revision:
                return False
            change(session, current, now)
            return True

        return await self._db.run(transact)


def assign_tokenizer(row: ResourceRow, claim: Claim, store_url: str) -> tuple[Task, dict[str, Any]]:
    """Return the task of a tokenizer's item, and its payload."""
    payload = {
        "store_url": store_url,
        "prefix": object_prefix(row, "tokenizers"),
        "name": str(ResourceName(row.project, Collection.TOKENIZERS, row.id)),
        "uid": row.uid,
        "created": row.created_at.isoformat(),
        "spec": row.spec,
        "datasets": row.status.get("inputs", []),
    }
    return _TASKS[claim.phase], payload


def _start(session: Session, row: ResourceRow, now: datetime, phase: str, inputs: list[dict[str, str]]) -> None:
    queue.enqueue(session, str(Job.of(row)), phase, [{}])
    status = {**row.status, "phase": phase, "inputs": inputs, "reason": None}
    move(session, row, JobState.RUNNING, status, now, cause="INPUTS_COMMITTED" if inputs else "ACCEPTED")
