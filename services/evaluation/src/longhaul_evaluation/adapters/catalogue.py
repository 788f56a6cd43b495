"""Queries and writes of evaluations and suites, each within the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from longhaul_core.db import Page, ResourceRow, events, resources
from longhaul_core.db.revisions import current_revision
from longhaul_core.db.rows import COLUMNS, row_of
from longhaul_core.db.schema import resources as table
from longhaul_core.db.session import Session
from longhaul_core.ids import fingerprint
from longhaul_core.rpc.paging import decode_page_token, encode_page_token
from sqlalchemy import select

from longhaul_evaluation.adapters.records import (
    EVALUATION_KIND,
    SUITE_KIND,
    evaluation_of,
    evaluation_spec_to,
    evaluation_status_to,
    suite_of,
    suite_spec_to,
    suite_status_to,
)
from longhaul_evaluation.domain.evaluation import ACTIVE_STATES, Evaluation, State
from longhaul_evaluation.domain.suite import Suite


def create_evaluation(
    session: Session, evaluation: Evaluation, now: datetime, request_id: str = ""
) -> tuple[ResourceRow, bool]:
    """Create an evaluation, or return the one that the same request made before."""
    spec = evaluation_spec_to(evaluation.spec)
    row, created = resources.create(
        session,
        kind=EVALUATION_KIND,
        project=evaluation.project,
        id=evaluation.id,
        spec=spec,
        state=evaluation.state,
        status=evaluation_status_to(evaluation),
        fingerprint=fingerprint(spec),
        request_id=request_id,
        now=now,
    )
    if created:
        _append(session, row, "CREATED", "", now)
    return row, created


def change_evaluation(
    session: Session,
    project: str,
    identifier: str,
    change: Callable[[Evaluation], Evaluation],
    *,
    now: datetime,
    expected_revision: int | None = None,
) -> ResourceRow:
    """Change an evaluation as it is now, or as it was at a revision; nothing is written where it stays the same.

    Raises:
        Aborted: it is not as of `expected_revision` any more.
    """
    row = resources.get(session, EVALUATION_KIND, project, identifier, for_update=True)
    before = evaluation_of(row)
    after = change(before)
    if after == before:
        return row
    saved = resources.update(
        session,
        row,
        state=after.state,
        status=evaluation_status_to(after),
        expected_revision=expected_revision,
        now=now,
    )
    if after.state is not before.state:
        _append(session, saved, after.reason.code if after.reason else "", before.state, now)
    return saved


def get_evaluation(session: Session, project: str, identifier: str) -> ResourceRow:
    """Return an evaluation. Raises NotFound."""
    return resources.get(session, EVALUATION_KIND, project, identifier)


def active_evaluations(session: Session) -> list[ResourceRow]:
    """Return the evaluations that have not ended, oldest first."""
    return resources.list_all(session, EVALUATION_KIND, states=ACTIVE_STATES)


def evaluations_of_run(session: Session, project: str, training_run: str) -> list[ResourceRow]:
    """Return the evaluations of a run, oldest first."""
    return _evaluations(session, project, "training_run", training_run)


def evaluations_of_suite(session: Session, project: str, suite: str) -> list[ResourceRow]:
    """Return the evaluations of a suite, oldest first."""
    return _evaluations(session, project, "suite", suite)


def evaluation_page(session: Session, project: str, training_run: str, *, page_size: int, page_token: str) -> Page:
    """List evaluations, newest first: of a project, or of one run."""
    if not training_run:
        return resources.list_page(session, EVALUATION_KIND, project, page_size=page_size, page_token=page_token)
    query = [EVALUATION_KIND, project, training_run]
    last = decode_page_token(page_token, query)
    revision = current_revision(session)
    rows = evaluations_of_run(session, project, training_run)[::-1]
    if last is not None:
        rows = [row for row in rows if (row.created_at.isoformat(), row.uid) < tuple(last)]
    shown = tuple(rows[:page_size])
    position = [shown[-1].created_at.isoformat(), shown[-1].uid] if len(rows) > page_size else None
    return Page(shown, encode_page_token(position, query) if position else "", revision)


def create_suite(session: Session, suite: Suite, now: datetime, request_id: str = "") -> tuple[ResourceRow, bool]:
    """Create a suite, or return the one that the same request made before."""
    spec = suite_spec_to(suite.spec)
    return resources.create(
        session,
        kind=SUITE_KIND,
        project=suite.project,
        id=suite.id,
        spec=spec,
        state=suite.state,
        status=suite_status_to(suite),
        fingerprint=fingerprint(spec),
        request_id=request_id,
        now=now,
    )


def change_suite(
    session: Session, project: str, identifier: str, change: Callable[[Suite], Suite], *, now: datetime
) -> ResourceRow:
    """Change a suite as it is now; nothing is written where it stays the same."""
    row = resources.get(session, SUITE_KIND, project, identifier, for_update=True)
    before = suite_of(row)
    after = change(before)
    if after == before:
        return row
    saved = resources.update(session, row, state=after.state, status=suite_status_to(after), now=now)
    if after.state is not before.state:
        _append(session, saved, after.reason.code if after.reason else "", before.state, now)
    return saved


def get_suite(session: Session, project: str, identifier: str) -> ResourceRow:
    """Return a suite. Raises NotFound."""
    return resources.get(session, SUITE_KIND, project, identifier)


def active_suites(session: Session) -> list[ResourceRow]:
    """Return the suites that have not ended, oldest first."""
    return resources.list_all(session, SUITE_KIND, states=ACTIVE_STATES)


def ended_suites(session: Session) -> list[ResourceRow]:
    """Return the suites that ended by themselves, oldest first."""
    return resources.list_all(session, SUITE_KIND, states={State.SUCCEEDED, State.FAILED})


def suite_page(session: Session, project: str, *, page_size: int, page_token: str) -> Page:
    """List suites, newest first."""
    return resources.list_page(session, SUITE_KIND, project, page_size=page_size, page_token=page_token)


def _evaluations(session: Session, project: str, field: str, value: str) -> list[ResourceRow]:
    statement = (
        select(*COLUMNS)
        .where(
            table.c.kind == EVALUATION_KIND,
            table.c.project == project,
            ~table.c.deleted,
            table.c.status[field].as_string() == value,
        )
        .order_by(table.c.created_at, table.c.uid)
    )
    return [row_of(row) for row in session.execute(statement)]


def _append(session: Session, row: ResourceRow, cause: str, before: str, now: datetime) -> None:
    events.append(
        session,
        row.kind,
        row.project,
        row.id,
        type="STATE_CHANGED",
        cause=cause,
        message=f"{before} -> {row.state}" if before else row.state,
        data={"from": before, "to": row.state},
        now=now,
    )
