"""What the agents of a run have reported, folded into one durable value. Pure.

Reports are applied once each, in the transaction that remembers their sequence number; a metric row of an older epoch
never replaces one of a newer epoch, so a replay after a resume ends with the values of the line that was kept.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from longhaul_training.domain.checkup_record import NodeReport
from longhaul_training.domain.goodput import WorkerTime
from longhaul_training.domain.pace import Pace, add_step, restarted

RECENT_STEPS = 64
KEPT_EXITS = 64
KEPT_STACKS = 16
MESSAGE_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """A worker that ended, as its agent reported it."""

    pod: str
    epoch: int
    rank: int
    exit_code: int
    at: float
    step: int = -1
    message: str = ""


@dataclass(frozen=True, slots=True)
class StepRow:
    """What the controller itself needs of a metric row.

    `position` counts the steps made, those that a rewind threw away included; it grows within an epoch.
    """

    step: int
    epoch: int
    at: float
    loss: float
    tokens: int
    tokens_per_second: float
    step_seconds: float
    data_wait_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    validation_loss: float | None = None
    repeat_share: float = 0.0
    position: int = -1

    def __post_init__(self) -> None:
        """A row without a position stands where its step says: nothing was rewound."""
        if self.position < 0:
            object.__setattr__(self, "position", self.step)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """The workers of an epoch say that one of their nodes computes wrongly, but can't tell which."""

    epoch: int
    cause: str
    message: str


@dataclass(frozen=True, slots=True)
class StackNote:
    """Where a rank of an epoch stood when its agent was about to end it."""

    epoch: int
    rank: int
    message: str


@dataclass(frozen=True, slots=True)
class Reports:
    """Everything reported so far; `step` and `position` are of `step_epoch`, `high_step` the highest of all epochs."""

    step: int = -1
    step_epoch: int = 0
    step_at: float = 0.0
    high_step: int = -1
    loss: float = 0.0
    validation_loss: float | None = None
    tokens_per_second: float = 0.0
    recent_step_seconds: tuple[float, ...] = ()
    exits: tuple[WorkerExit, ...] = ()
    finished_epoch: int = 0
    finished_step: int = -1
    checkpoint: str = ""
    checkpoint_step: int = -1
    data_wait_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    replay_seconds: float = 0.0
    tokens: int = 0
    restored_epoch: int = 0
    restored_at: float = 0.0
    restore_seconds: float = 0.0
    pace: Pace = field(default_factory=Pace)
    node_reports: tuple[NodeReport, ...] = ()
    suspicion: Suspicion | None = None
    stacks: tuple[StackNote, ...] = ()
    position: int = -1

    def __post_init__(self) -> None:
        """What was stored before positions were reported stands where its step says."""
        if self.position < 0:
            object.__setattr__(self, "position", self.step)

    @property
    def median_step_seconds(self) -> float:
        """Median over the most recent steps; 0 before the first."""
        return statistics.median(self.recent_step_seconds) if self.recent_step_seconds else 0.0

    @property
    def worker_time(self) -> WorkerTime:
        """Time inside the stepping states that was not productive."""
        return WorkerTime(self.data_wait_seconds, self.checkpoint_seconds, self.replay_seconds)


def is_replay(reports: Reports, row: StepRow) -> bool:
    """Whether this step was made before: by an earlier epoch, or before a rewind."""
    return row.step <= reports.high_step


def is_known(reports: Reports, row: StepRow) -> bool:
    """Whether this very row was folded in before: within an epoch positions come once, in order.

    Rows come twice where the journal was read while an agent still had them to report. Steps may repeat: after a rewind
    they are made again, and the newest row of a step is the one that is kept.
    """
    return row.epoch == reports.step_epoch and row.position <= reports.position


def add_steps(reports: Reports, rows: Iterable[StepRow]) -> Reports:
    """Folds metric rows in; rows of an older epoch than the newest change nothing but the counters of time."""
    for row in rows:
        replay = is_replay(reports, row)
        reports = replace(
            reports,
            high_step=max(reports.high_step, row.step),
            data_wait_seconds=reports.data_wait_seconds + (0.0 if replay else row.data_wait_seconds),
            checkpoint_seconds=reports.checkpoint_seconds + (0.0 if replay else row.checkpoint_seconds),
            replay_seconds=reports.replay_seconds + (row.step_seconds if replay else 0.0),
        )
        if row.epoch >= reports.step_epoch:
            reports = _newest(reports, row)
    return reports


def add_exit(reports: Reports, exit_: WorkerExit) -> Reports:
    """Adds a worker's end; exits of older epochs are dropped, they have been answered."""
    kept = tuple(e for e in reports.exits if e.epoch >= exit_.epoch and (e.epoch, e.rank) != (exit_.epoch, exit_.rank))
    short = replace(exit_, message=exit_.message[-MESSAGE_CHARACTERS:])
    return replace(reports, exits=(*kept, short)[-KEPT_EXITS:])


def add_finish(reports: Reports, epoch: int, step: int) -> Reports:
    """Notes that all steps are made and the last checkpoint is committed."""
    if epoch < reports.finished_epoch:
        return reports
    return replace(reports, finished_epoch=epoch, finished_step=step)


def add_checkpoint(reports: Reports, checkpoint: str, step: int) -> Reports:
    """Notes the newest committed checkpoint."""
    return replace(reports, checkpoint=checkpoint, checkpoint_step=step)


def add_restore(reports: Reports, epoch: int, at: float, seconds: float) -> Reports:
    """Notes that rank 0 of an epoch has loaded its checkpoint, at `at` and within `seconds`."""
    if epoch < reports.restored_epoch:
        return reports
    return replace(reports, restored_epoch=epoch, restored_at=at, restore_seconds=seconds)


def add_node_report(reports: Reports, found: NodeReport) -> Reports:
    """Adds what a rank's check found; those of older epochs have been judged."""
    kept = tuple(r for r in reports.node_reports if r.epoch >= found.epoch and (r.epoch, r.pod, r.rank) != _key(found))
    return replace(reports, node_reports=(*kept, found))


def add_suspicion(reports: Reports, suspicion: Suspicion) -> Reports:
    """Notes the first suspicion of an epoch; the ranks of one epoch mean the same."""
    known = reports.suspicion
    if known is not None and known.epoch >= suspicion.epoch:
        return reports
    return replace(reports, suspicion=suspicion)


def add_stacks(reports: Reports, note: StackNote) -> Reports:
    """Keeps where the ranks of the newest epoch stood, as many as a person reads."""
    kept = tuple(n for n in reports.stacks if n.epoch >= note.epoch and (n.epoch, n.rank) != (note.epoch, note.rank))
    return replace(reports, stacks=(*kept, note)[:KEPT_STACKS])


def _key(found: NodeReport) -> tuple[int, str, int]:
    return found.epoch, found.pod, found.rank


def _newest(reports: Reports, row: StepRow) -> Reports:
    goes_on = row.epoch == reports.step_epoch and row.step > reports.step
    pace = reports.pace if goes_on else restarted(reports.pace)
    seconds = max(0.0, row.step_seconds - row.checkpoint_seconds)
    return replace(
        reports,
        pace=add_step(pace, row.step, row.at, seconds, row.data_wait_seconds, row.repeat_share),
        step=row.step,
        position=row.position,
        step_epoch=row.epoch,
        step_at=row.at,
        loss=row.loss if math.isfinite(row.loss) else reports.loss,
        validation_loss=reports.validation_loss if row.validation_loss is None else row.validation_loss,
        tokens=row.tokens,
        tokens_per_second=row.tokens_per_second,
        recent_step_seconds=(*reports.recent_step_seconds, row.step_seconds)[-RECENT_STEPS:],
    )
