"""Agents' reports: each applied once, in one transaction with the sequence number that makes it so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import LonghaulError
from longhaul_core.logging import get_logger
from longhaul_core.objects import ObjectStore

from longhaul_training.adapters import codec, metric_rows
from longhaul_training.adapters.leadership import check_term
from longhaul_training.adapters.metric_journal import MetricJournal, Rows
from longhaul_training.adapters.metric_rows import MetricRow
from longhaul_training.adapters.run_store import KIND, append_events
from longhaul_training.domain import reports as folding
from longhaul_training.domain.actions import RunEvent
from longhaul_training.domain.checkup_record import Finding, NodeReport
from longhaul_training.domain.reports import Reports, StackNote, Suspicion, WorkerExit

log = get_logger(__name__)

NODE_CHECKED = "NODE_CHECKED"
"""Type of the event in which a rank says what its check of its pod found."""
NODE_SUSPECT = "NODE_SUSPECT"
"""Type of the event in which a rank says that one of the run's nodes computes wrongly."""
STACKS = "STACKS"
"""Type of the event in which an agent says where a rank stood before it was ended."""
RESTORED = "RESTORED"
"""Type of the event by which rank 0 says that it has loaded its checkpoint."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """Metric rows of rank 0, each with the values that are kept as they came."""

    rows: Rows


@dataclass(frozen=True, slots=True)
class FinishReport:
    """All steps are made and the last checkpoint is committed."""

    epoch: int
    step: int


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """A checkpoint of the run was committed."""

    checkpoint: str
    step: int
    epoch: int


@dataclass(frozen=True, slots=True)
class EventReport:
    """Something worth an event."""

    event: RunEvent


@dataclass(frozen=True, slots=True)
class NoticeReport:
    """Something that needs an acknowledgement and nothing else."""


Report = StepReport | FinishReport | CheckpointReport | EventReport | WorkerExit | NoticeReport


class ReportStore:
    """Applies reports and reads the metric history back."""

    def __init__(self, db: Database, objects: ObjectStore, clock: Clock, journal: MetricJournal) -> None:
        self._db = db
        self._objects = objects
        self._clock = clock
        self._journal = journal

    async def apply(
        self, project: str, run_id: str, reports: Mapping[str, Sequence[tuple[int, Report]]], term: int
    ) -> str:
        """Applies what the pods of a run report and was not applied yet, in one transaction; returns the run's uid.

        Raises Aborted (STALE_TERM).
        """
        now = self._clock.now()

        def transact(session: Session) -> ResourceRow:
            check_term(session, term)
            row = resources.get(session, KIND, project, run_id, for_update=True)
            sequences = dict(row.status["sequences"])
            new: list[Report] = []
            for pod, numbered in reports.items():
                done = int(sequences.get(pod, 0))
                new += [report for sequence, report in numbered if sequence > done]
                sequences[pod] = max([done, *(sequence for sequence, _ in numbered)])
            if not new:
                return row
            folded, happened = _fold(session, row, codec.load_reports(row), new)
            status = {**row.status, "reports": codec.dump_reports(folded), "sequences": sequences}
            row = resources.update(session, row, status=status, now=now)
            append_events(session, row, happened, now)
            return row

        row = await self._db.run(transact)
        await self._clear_journal(row, [report for numbered in reports.values() for _, report in numbered])
        return row.uid

    async def recover(self, project: str, run_id: str, through: int, term: int) -> None:
        """Commits the rows up to a checkpoint's position that died with the agents; raises Aborted (STALE_TERM).

        A damaged object of the journal costs its rows and is told; the run goes on.
        """
        row = await self._db.read(lambda session: resources.get(session, KIND, project, run_id))
        reports = codec.load_reports(row)
        after = (reports.step_epoch, reports.position)
        rows, damaged = await asyncio.to_thread(self._journal.read, project, run_id, after, through)
        if not rows and not damaged:
            return
        now = self._clock.now()

        def transact(session: Session) -> None:
            check_term(session, term)
            row = resources.get(session, KIND, project, run_id, for_update=True)
            folded = _add_steps(session, row.uid, codec.load_reports(row), StepReport(rows))
            resources.update(session, row, status={**row.status, "reports": codec.dump_reports(folded)}, now=now)
            append_events(session, row, tuple(_journal_event(key) for key in damaged), now)

        await self._db.run(transact)

    async def _clear_journal(self, row: ResourceRow, reports: Sequence[Report]) -> None:
        """Forgets what the journal holds up to a checkpoint that is reported: its agent reported the rows before."""
        steps = [report.step for report in reports if isinstance(report, CheckpointReport)]
        if not steps:
            return
        through = min(max(steps), codec.load_reports(row).position)
        try:
            await asyncio.to_thread(self._journal.clear, row.project, row.id, through)
        except LonghaulError as error:
            log.warning("journal not cleared", run=row.id, error=str(error))

    async def archive(self, project: str, run_id: str, run_uid: str) -> bool:
        """Moves the oldest rows to a segment; the segment is there before the rows are gone. Whether it did."""
        rows = await self._db.read(lambda session: metric_rows.rows_to_archive(session, run_uid))
        if not rows:
            return False
        await asyncio.to_thread(metric_rows.write_segment, self._objects, metrics_prefix(project, run_id), rows)
        await self._db.run(lambda session: metric_rows.forget(session, run_uid, rows))
        return True

    async def history(self, project: str, run_id: str, run_uid: str, after_step: int, limit: int) -> list[MetricRow]:
        """Rows after a step, one a step, from segments and table."""
        newest = await self._db.read(lambda s: metric_rows.rows_after_step(s, run_uid, after_step, limit))
        prefix = metrics_prefix(project, run_id)
        archived = await asyncio.to_thread(metric_rows.read_segments, self._objects, prefix, after_step, limit)
        return metric_rows.merge(archived, newest, limit)

    async def stream(self, project: str, run_id: str, run_uid: str, after_sequence: int, limit: int) -> list[MetricRow]:
        """Rows after a sequence, in the order of commits; a reader that is far behind gets archived ones first."""
        oldest = await self._db.read(lambda s: metric_rows.rows_after_sequence(s, run_uid, -1, 1))
        if oldest and after_sequence < oldest[0].sequence - 1:
            prefix = metrics_prefix(project, run_id)
            archived = await asyncio.to_thread(
                metric_rows.read_archived, self._objects, prefix, after_sequence, oldest[0].sequence, limit
            )
            if archived:
                return archived
        return await self._db.read(lambda s: metric_rows.rows_after_sequence(s, run_uid, after_sequence, limit))


def metrics_prefix(project: str, run_id: str) -> str:
    """Prefix of a run's metric segments."""
    return f"projects/{project}/runs/{run_id}/metrics"


def _fold(
    session: Session, row: ResourceRow, folded: Reports, new: Sequence[Report]
) -> tuple[Reports, tuple[RunEvent, ...]]:
    happened: list[RunEvent] = []
    for report in new:
        match report:
            case StepReport():
                folded = _add_steps(session, row.uid, folded, report)
            case WorkerExit():
                folded = folding.add_exit(folded, report)
                happened.append(_exit_event(report))
            case FinishReport():
                folded = folding.add_finish(folded, report.epoch, report.step)
            case CheckpointReport():
                folded = folding.add_checkpoint(folded, report.checkpoint, report.step)
                data = {"checkpoint": report.checkpoint, "step": report.step, "epoch": report.epoch}
                happened.append(RunEvent("CHECKPOINT_COMMITTED", "", f"checkpoint at step {report.step}", data))
            case EventReport():
                folded = _note_restore(folded, report.event)
                if report.event.type == NODE_CHECKED:
                    folded = folding.add_node_report(folded, _node_report(report.event))
                else:
                    folded = _note_findings(folded, report.event)
                    happened.append(report.event)
            case NoticeReport():
                pass
    return folded, tuple(happened)


def _note_restore(folded: Reports, event: RunEvent) -> Reports:
    if event.type != RESTORED:
        return folded
    data = event.data
    return folding.add_restore(folded, int(data["epoch"]), float(data["at"]), float(data.get("seconds", 0.0)))


def _note_findings(folded: Reports, event: RunEvent) -> Reports:
    if event.type == STACKS:
        note = StackNote(int(event.data["epoch"]), int(event.data["rank"]), event.message)
        return folding.add_stacks(folded, note)
    if event.type != NODE_SUSPECT:
        return folded
    return folding.add_suspicion(folded, Suspicion(int(event.data["epoch"]), event.cause, event.message))


def _node_report(event: RunEvent) -> NodeReport:
    data = event.data
    findings = tuple(Finding(**line) for line in json.loads(str(data["findings"])))
    return NodeReport(str(data["pod"]), int(data["epoch"]), int(data["rank"]), str(data["device"]), findings)


def _add_steps(session: Session, run_uid: str, folded: Reports, report: StepReport) -> Reports:
    sequence = metric_rows.newest_sequence(session, run_uid)
    rows = []
    for step, values in report.rows:
        if folding.is_known(folded, step):
            continue
        sequence += 1
        at = datetime.fromtimestamp(step.at, UTC)
        rows.append(MetricRow(step.step, step.epoch, sequence, folding.is_replay(folded, step), at, values))
        folded = folding.add_steps(folded, (step,))
    metric_rows.upsert(session, run_uid, rows)
    return folded


def _journal_event(key: str) -> RunEvent:
    text = f"metric rows are missing: {key} is damaged"
    return RunEvent("METRICS_LOST", "JOURNAL_DAMAGED", text, {"key": key})


def _exit_event(exit_: WorkerExit) -> RunEvent:
    how = f"signal {-exit_.exit_code}" if exit_.exit_code < 0 else f"exit code {exit_.exit_code}"
    data = {
        "pod": exit_.pod,
        "rank": exit_.rank,
        "epoch": exit_.epoch,
        "exit_code": exit_.exit_code,
        "step": exit_.step,
    }
    text = f"worker of rank {exit_.rank} ended with {how}"
    return RunEvent("WORKER_EXITED", how.upper().replace(" ", "_"), text, data)
