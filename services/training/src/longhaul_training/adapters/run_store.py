"""Training runs in the database.

The status has three parts with one writer each: `control` (the controller, under its term), `desired` (users' verbs,
any replica), `reports` (agents' reports, under the term). Each write reads the row again under a lock and replaces
its part only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow, events, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import Aborted, NotFound

from longhaul_training.adapters import codec, project_store
from longhaul_training.adapters.leadership import check_term
from longhaul_training.domain.actions import Change, RunEvent
from longhaul_training.domain.admission import check_quota
from longhaul_training.domain.reports import Reports
from longhaul_training.domain.states import Control, Desired, Run, new_control

KIND = "training-run"


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run with what was reported of it and the version of its control record."""

    run: Run
    reports: Reports
    row: ResourceRow

    @property
    def version(self) -> int:
        """Grows with each write of the control record."""
        return int(self.row.status["control_version"])


def load(row: ResourceRow) -> StoredRun:
    """Reads a row."""
    return StoredRun(codec.load_run(row), codec.load_reports(row), row)


class RunStore:
    """Reads and writes runs."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def create(
        self, project: str, run_id: str, spec: Mapping[str, Any], fingerprint: str, request_id: str
    ) -> StoredRun:
        """Accepts a run; raises AlreadyExists (SPEC_DIFFERS), NotFound without the project, or what its quota says."""
        now = self._clock.now()
        gpus = spec["resources"]["nodes"] * spec["resources"]["gpus_per_node"]

        def transact(session: Session) -> ResourceRow:
            check_quota(project_store.read_limits(session, project), gpus, project)
            return insert(session, project, run_id, spec, fingerprint, request_id, now)

        return load(await self._db.run(transact))

    async def get(self, project: str, run_id: str) -> StoredRun:
        """Reads one run; raises NotFound."""
        return load(await self._db.read(lambda session: resources.get(session, KIND, project, run_id)))

    async def commit(self, stored: StoredRun, control: Control, happened: tuple[RunEvent, ...], term: int) -> StoredRun:
        """Writes the control record that was decided on `stored`, with its events.

        Raises Aborted: STALE_TERM when another replica leads, CONTROL_CHANGED when the record has moved since it was
        read.
        """
        [written] = await self.commit_all([(stored, Change(control, happened))], term)
        if written is None:
            raise Aborted(f"the record of {stored.run.name} has moved", reason="CONTROL_CHANGED")
        return written

    async def commit_all(self, changes: Sequence[tuple[StoredRun, Change]], term: int) -> list[StoredRun | None]:
        """Writes several records in one transaction; None for those that have moved since they were read.

        Raises Aborted, STALE_TERM, when another replica leads; then none is written.
        """
        now = self._clock.now()

        def transact(session: Session) -> list[ResourceRow | None]:
            check_term(session, term)
            return [_write(session, stored, change, now) for stored, change in changes]

        return [load(row) if row is not None else None for row in await self._db.run(transact)]

    async def set_desired(
        self, project: str, run_id: str, decide: Callable[[Run], Desired], happened: RunEvent
    ) -> StoredRun:
        """Records what the user wants; `decide` may refuse by raising. Wanting the same again writes nothing."""
        now = self._clock.now()

        def transact(session: Session) -> ResourceRow:
            row = resources.get(session, KIND, project, run_id, for_update=True)
            run = codec.load_run(row)
            desired = decide(run)
            if desired == run.desired:
                return row
            row = resources.update(session, row, status={**row.status, "desired": codec.dump_desired(desired)}, now=now)
            append_events(session, row, (happened,), now)
            return row

        return load(await self._db.run(transact))


def _write(session: Session, stored: StoredRun, change: Change, now: datetime) -> ResourceRow | None:
    try:
        row = resources.get(session, KIND, stored.row.project, stored.row.id, for_update=True)
    except NotFound:
        return None
    if row.uid != stored.row.uid or row.status["control_version"] != stored.version:
        return None
    status = {**row.status, "control": codec.dump_control(change.control), "control_version": stored.version + 1}
    row = resources.update(session, row, state=change.control.state.value, status=status, now=now)
    append_events(session, row, change.events, now)
    return row


def insert(
    session: Session,
    project: str,
    run_id: str,
    spec: Mapping[str, Any],
    fingerprint: str,
    request_id: str,
    now: datetime,
) -> ResourceRow:
    """Accepts a run within a transaction of the caller."""
    status = {
        "control": codec.dump_control(new_control(now.timestamp())),
        "control_version": 1,
        "desired": codec.dump_desired(Desired()),
        "reports": codec.dump_reports(Reports()),
        "sequences": {},
    }
    row, created = resources.create(
        session,
        kind=KIND,
        project=project,
        id=run_id,
        spec=dict(spec),
        state="QUEUED",
        status=status,
        fingerprint=fingerprint,
        request_id=request_id,
        now=now,
    )
    if created:
        append_events(session, row, (RunEvent("CREATED", "ACCEPTED", "the run was accepted"),), now)
    return row


def append_events(session: Session, row: ResourceRow, happened: tuple[RunEvent, ...], now: datetime) -> None:
    """Adds events of a run in the caller's transaction."""
    for event in happened:
        events.append(
            session,
            row.kind,
            row.project,
            row.id,
            type=event.type,
            cause=event.cause,
            message=event.message,
            data=dict(event.data),
            now=now,
        )
