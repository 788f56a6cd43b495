"""The catalogue: queries and writes of checkpoints and runs, each within the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Any

from longhaul_core.db import events, resources
from longhaul_core.db.prepared import Prepared
from longhaul_core.db.resources import Page, ResourceRow
from longhaul_core.db.revisions import current_revision
from longhaul_core.db.rows import COLUMNS, row_of
from longhaul_core.db.schema import resources as table
from longhaul_core.db.session import Session
from longhaul_core.ids import ANY_PROJECT, fingerprint
from longhaul_core.rpc.paging import decode_page_token, encode_page_token
from sqlalchemy import Select, bindparam, select

from longhaul_checkpoint.adapters.records import (
    CHECKPOINT_KIND,
    RUN_KIND,
    checkpoint_of,
    head_of,
    policy_of,
    run_status_of,
    status_of,
)
from longhaul_checkpoint.domain.checkpoint import VISIBLE_STATES, Checkpoint, Identity, State
from longhaul_checkpoint.domain.lineage import RunHead
from longhaul_checkpoint.domain.naming import split_resource_id
from longhaul_checkpoint.domain.retention import RetentionPolicy
from longhaul_checkpoint.domain.sharing import Holdings, holdings

_OF_RUN = Prepared(
    select(*COLUMNS).where(
        table.c.kind == CHECKPOINT_KIND,
        table.c.state == bindparam("of_state"),
        table.c.project == bindparam("of_project"),
        table.c.id.between(bindparam("first"), bindparam("last")),
        table.c.id.like(bindparam("pattern")),
        ~table.c.deleted,
    )
)


def run_row(session: Session, project: str, run: str, now: datetime, *, for_update: bool = False) -> ResourceRow:
    """Return the row of a run, made where there is none; `for_update` fences it until the transaction ends."""
    row = resources.find(session, RUN_KIND, project, run)
    if row is None:
        return resources.create(
            session,
            kind=RUN_KIND,
            project=project,
            id=run,
            spec={},
            state="ACTIVE",
            status=run_status_of(RunHead(run), RetentionPolicy()),
            fingerprint=fingerprint({"run": run}),
            now=now,
        )[0]
    return resources.get(session, RUN_KIND, project, run, for_update=True) if for_update else row


def find_run(session: Session, project: str, run: str) -> ResourceRow | None:
    """Return the row of a run, or None where none is known."""
    return resources.find(session, RUN_KIND, project, run)


def all_runs(session: Session) -> tuple[int, list[tuple[str, str]]]:
    """Return the newest revision, and project and id of each run."""
    return current_revision(session), [(row.project, row.id) for row in resources.list_all(session, RUN_KIND)]


def runs_changed(session: Session, after_revision: int) -> tuple[int, list[tuple[str, str]]]:
    """Return the newest revision, and project and id of each run whose retention may decide otherwise since one.

    That a checkpoint was begun, or the first epoch registered, changes nothing yet.
    """
    changed = table.c.revision > after_revision
    checkpoints = select(table.c.project, table.c.id).where(
        table.c.kind == CHECKPOINT_KIND, table.c.state != State.BEGUN, changed
    )
    runs = select(*COLUMNS).where(table.c.kind == RUN_KIND, changed)
    found = {(row.project, split_resource_id(row.id)[0]) for row in session.execute(checkpoints)}
    for row in map(row_of, session.execute(runs)):
        if head_of(row).checkpoint or policy_of(row) != RetentionPolicy():
            found.add((row.project, row.id))
    return current_revision(session), sorted(found)


def save_run(
    session: Session,
    row: ResourceRow,
    *,
    head: RunHead | None = None,
    policy: RetentionPolicy | None = None,
    now: datetime,
) -> ResourceRow:
    """Change head or policy of a run; nothing is written where both stay."""
    status = run_status_of(head or head_of(row), policy or policy_of(row))
    return row if status == row.status else resources.update(session, row, status=status, now=now)


def begin(session: Session, identity: Identity, world_size: int, now: datetime) -> tuple[ResourceRow, bool]:
    """Reserve a checkpoint, or return the one that was reserved before."""
    spec = {"run": identity.run, "step": identity.step, "epoch": identity.epoch, "world_size": world_size}
    return resources.create(
        session,
        kind=CHECKPOINT_KIND,
        project=identity.project,
        id=identity.id,
        spec=spec,
        state=State.BEGUN,
        status={},
        fingerprint=fingerprint(spec),
        now=now,
    )


def get(session: Session, project: str, identifier: str, *, for_update: bool = False) -> ResourceRow:
    """Return the row of a checkpoint. Raises NotFound."""
    return resources.get(session, CHECKPOINT_KIND, project, identifier, for_update=for_update)


def find(session: Session, project: str, identifier: str) -> ResourceRow | None:
    """Return the row of a checkpoint, or None."""
    return resources.find(session, CHECKPOINT_KIND, project, identifier)


def save(
    session: Session, row: ResourceRow, checkpoint: Checkpoint, *, cause: str, message: str = "", now: datetime
) -> ResourceRow:
    """Write a checkpoint; a change of state is an event."""
    saved = resources.update(session, row, state=checkpoint.state, status=status_of(checkpoint), now=now)
    if checkpoint.state != row.state:
        events.append(
            session,
            CHECKPOINT_KIND,
            row.project,
            row.id,
            type="STATE_CHANGED",
            cause=cause,
            message=message or f"{row.state} -> {checkpoint.state}",
            data={"from": row.state, "to": checkpoint.state.value},
            now=now,
        )
    return saved


def set_state(session: Session, row: ResourceRow, state: State, *, cause: str, now: datetime) -> ResourceRow:
    """Write a new state alone."""
    return save(session, row, replace(checkpoint_of(row), state=state), cause=cause, now=now)


def of_run(session: Session, project: str, run: str, states: Collection[State]) -> list[ResourceRow]:
    """Return the checkpoints of a run in some states, lowest step first."""
    found = session.execute(_of_run(project, run, states).order_by(table.c.id))
    return [row_of(row) for row in found]


def held(session: Session, project: str, run: str) -> Holdings:
    """Return what the live checkpoints of a run hold: their parts, and those that they borrow."""
    return holdings(checkpoint_of(row) for row in of_run(session, project, run, VISIBLE_STATES))


def in_states(
    session: Session, states: Collection[State], project: str = ANY_PROJECT, run: str = ""
) -> list[ResourceRow]:
    """Return the checkpoints in some rare states: of one run, or of all projects.

    One state at a time, so that the index of states leads to the few that are there: a range over the ids of a run
    alone reads every checkpoint that it ever had (40 ms for 100,000).
    """
    if run:
        first, last, pattern = _ids_of(run)
        place = {"of_project": project, "first": first, "last": last, "pattern": pattern}
        found = [row for state in sorted(states) for row in _OF_RUN.rows(session, {**place, "of_state": state})]
        return [row_of(row) for row in found]
    statement = select(*COLUMNS).where(
        table.c.kind == CHECKPOINT_KIND, table.c.state.in_(sorted(states)), ~table.c.deleted
    )
    return [row_of(row) for row in session.execute(statement)]


def next_on_line(session: Session, project: str, start: str, maximum_step: int) -> ResourceRow | None:
    """Return the first committed checkpoint at or behind `start` on a run's line, of at most a step (0: any)."""
    identifier = start
    while identifier:
        row = resources.find(session, CHECKPOINT_KIND, project, identifier)
        if row is None:
            return None
        if row.state == State.COMMITTED and not 0 < maximum_step < row.spec["step"]:
            return row
        commitment = row.status.get("commitment")
        identifier = commitment["previous"] if commitment else ""
    return None


def page(session: Session, project: str, run: str, *, page_size: int, page_token: str, show_all: bool) -> Page:
    """List checkpoints, newest first: of a run by step along the primary key, of a project by creation."""
    states = set(State) if show_all else VISIBLE_STATES
    if not run:
        return resources.list_page(
            session, CHECKPOINT_KIND, project, page_size=page_size, page_token=page_token, states=states
        )
    query = [CHECKPOINT_KIND, project, run, show_all]
    statement = _of_run(project, run, states).order_by(table.c.id.desc()).limit(page_size + 1)
    position = decode_page_token(page_token, query)
    if position is not None:
        statement = statement.where(table.c.id < position[0])
    revision = current_revision(session)
    rows = [row_of(row) for row in session.execute(statement)]
    shown = tuple(rows[:page_size])
    token = encode_page_token([shown[-1].id], query) if len(rows) > page_size else ""
    return Page(shown, token, revision)


def committed_page(session: Session, *, page_size: int, page_token: str) -> Page:
    """List the committed checkpoints of all projects."""
    return resources.list_page(
        session,
        CHECKPOINT_KIND,
        ANY_PROJECT,
        page_size=page_size,
        page_token=page_token,
        states={State.COMMITTED},
    )


def _of_run(project: str, run: str, states: Collection[State]) -> Select[Any]:
    first, last, pattern = _ids_of(run)
    return select(*COLUMNS).where(
        table.c.kind == CHECKPOINT_KIND,
        table.c.project == project,
        table.c.id.between(first, last),
        table.c.id.like(pattern),
        table.c.state.in_(sorted(states)),
        ~table.c.deleted,
    )


def _ids_of(run: str) -> tuple[str, str, str]:
    """First and last id that a checkpoint of a run may have, and the pattern of all: another run's may lie between."""
    return f"{run}-step-00000000", f"{run}-step-99999999-e999999", f"{run}-step-{'_' * 8}-e%"
