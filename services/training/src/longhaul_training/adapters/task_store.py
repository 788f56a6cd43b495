"""Tasks in the database; the status has a part of the controller and a part of the users, as that of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import Aborted

from longhaul_training.adapters import codec
from longhaul_training.adapters.leadership import check_term
from longhaul_training.adapters.run_store import append_events
from longhaul_training.domain.actions import RunEvent
from longhaul_training.domain.tasks import Task, TaskControl

KIND = "task"


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A task and the row it came from."""

    task: Task
    row: ResourceRow

    @property
    def version(self) -> int:
        """Grows with each write of the control record."""
        return int(self.row.status["control_version"])


def load(row: ResourceRow) -> StoredTask:
    """Reads a row."""
    return StoredTask(codec.load_task(row), row)


class TaskStore:
    """Reads and writes tasks."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def create(
        self, project: str, task_id: str, spec: Mapping[str, Any], fingerprint: str, request_id: str
    ) -> StoredTask:
        """Accepts a task; raises AlreadyExists (SPEC_DIFFERS)."""
        now = self._clock.now()
        status = {"control": codec.dump_task_control(TaskControl()), "control_version": 1, "cancelled": False}

        def transact(session: Session) -> ResourceRow:
            row, _ = resources.create(
                session,
                kind=KIND,
                project=project,
                id=task_id,
                spec=dict(spec),
                state="QUEUED",
                status=status,
                fingerprint=fingerprint,
                request_id=request_id,
                now=now,
            )
            return row

        return load(await self._db.run(transact))

    async def get(self, project: str, task_id: str) -> StoredTask:
        """Reads one task; raises NotFound."""
        return load(await self._db.read(lambda session: resources.get(session, KIND, project, task_id)))

    async def cancel(self, project: str, task_id: str) -> StoredTask:
        """Records that the task is to end; a terminal one stays as it is."""
        now = self._clock.now()

        def transact(session: Session) -> ResourceRow:
            row = resources.get(session, KIND, project, task_id, for_update=True)
            if row.status["cancelled"] or codec.load_task(row).control.state.terminal:
                return row
            return resources.update(session, row, status={**row.status, "cancelled": True}, now=now)

        return load(await self._db.run(transact))

    async def commit(
        self, stored: StoredTask, control: TaskControl, happened: tuple[RunEvent, ...], term: int
    ) -> StoredTask:
        """Writes the control record that was decided on `stored`; raises Aborted as `RunStore.commit`."""
        now = self._clock.now()

        def transact(session: Session) -> ResourceRow:
            check_term(session, term)
            row = resources.get(session, KIND, stored.row.project, stored.row.id, for_update=True)
            if row.uid != stored.row.uid or row.status["control_version"] != stored.version:
                raise Aborted(f"the record of {stored.task.name} has moved", reason="CONTROL_CHANGED")
            status = {
                **row.status,
                "control": codec.dump_task_control(control),
                "control_version": stored.version + 1,
            }
            row = resources.update(session, row, state=control.state.value, status=status, now=now)
            append_events(session, row, happened, now)
            return row

        return load(await self._db.run(transact))
