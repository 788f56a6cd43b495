"""A suite: which checkpoints of a run are evaluated, under which ids, and when all is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from longhaul_core.ids import fingerprint

from longhaul_evaluation.domain.evaluation import (
    CHECKPOINT_GONE,
    DEFAULT_BATCH_SIZE,
    TERMINAL_STATES,
    Evaluation,
    EvaluationSpec,
    Reason,
    Selection,
    State,
)

_MARK_CHARACTERS = 8
_MAXIMUM_ID_CHARACTERS = 63


@dataclass(frozen=True, slots=True)
class SuiteSpec:
    """A standing order. `every_steps` 0 takes every commit; the run's last one is taken in any case."""

    training_run: str
    token_set: str
    tasks: tuple[Selection, ...]
    every_steps: int = 0
    batch_size: int = DEFAULT_BATCH_SIZE
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """How many evaluations a suite has, by outcome."""

    evaluations: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    cancelled: int = 0

    @property
    def finished(self) -> int:
        """Evaluations that will not change any more."""
        return self.succeeded + self.failed + self.skipped + self.cancelled


@dataclass(frozen=True, slots=True)
class SeenCheckpoint:
    """What a suite needs to know of a checkpoint. `available` is false once it is deleted."""

    name: str
    step: int
    epoch: int
    available: bool


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite of the catalogue.

    `checkpoint_revision` is the last change of the checkpoint service that was seen to; `complete` says that the run
    has ended and every one of its checkpoints was seen; `run_failed` that it may yet be retried.
    """

    project: str
    id: str
    spec: SuiteSpec
    state: State = State.QUEUED
    reason: Reason | None = None
    checkpoint_revision: int = 0
    counts: Counts = Counts()
    complete: bool = False
    run_failed: bool = False

    @property
    def is_terminal(self) -> bool:
        """Whether the suite has ended."""
        return self.state in TERMINAL_STATES

    def is_due(self, step: int) -> bool:
        """Whether the checkpoint of a step is evaluated, wherever it stands in the run."""
        return self.spec.every_steps <= 1 or step % self.spec.every_steps == 0

    def due_at_the_end(self, checkpoints: Sequence[SeenCheckpoint]) -> list[SeenCheckpoint]:
        """Return what is to be evaluated of all checkpoints of a run that has ended: what is due, and the last one."""
        last = max(checkpoints, key=lambda seen: (seen.epoch, seen.step), default=None)
        return [seen for seen in checkpoints if seen is last or self.is_due(seen.step)]

    def evaluation_id(self, checkpoint_id: str) -> str:
        """Return the id of the one evaluation of a checkpoint in this suite."""
        mark = fingerprint([self.project, self.id, checkpoint_id])[:_MARK_CHARACTERS]
        room = _MAXIMUM_ID_CHARACTERS - _MARK_CHARACTERS - 1
        return f"{checkpoint_id[-room:].lstrip('-')}-{mark}"

    def evaluation_spec(self, checkpoint: str) -> EvaluationSpec:
        """Return what the evaluation of a checkpoint scores."""
        return EvaluationSpec(checkpoint, self.spec.token_set, self.spec.tasks, self.spec.batch_size, self.spec.seed)

    def settle(self, counts: Counts) -> Suite:
        """Return the suite with its counts, ended where nothing is left to do."""
        suite = replace(self, counts=counts)
        if counts.finished < counts.evaluations:
            return suite
        if self.state is State.CANCELLING:
            return replace(suite, state=State.CANCELLED, reason=None)
        if not self.complete:
            return suite
        if counts.failed:
            reason = Reason(
                "EVALUATIONS_FAILED",
                f"{counts.failed} of {counts.evaluations} evaluations failed",
                "list the evaluations of the run; each failed one says why",
            )
            return replace(suite, state=State.FAILED, reason=reason)
        return replace(suite, state=State.SUCCEEDED, reason=None)

    def reopen(self) -> Suite:
        """Return the suite at work again, after its failed run was retried."""
        return replace(self, state=State.RUNNING, reason=None, complete=False, run_failed=False)


def count(evaluations: Sequence[Evaluation]) -> Counts:
    """Count the evaluations of a suite."""

    def having(*states: State) -> list[Evaluation]:
        return [evaluation for evaluation in evaluations if evaluation.state in states]

    gone = sum(it.reason is not None and it.reason.code == CHECKPOINT_GONE for it in having(State.CANCELLED))
    return Counts(
        evaluations=len(evaluations),
        succeeded=len(having(State.SUCCEEDED)),
        failed=len(having(State.FAILED)),
        skipped=gone,
        cancelled=len(having(State.CANCELLED)) - gone,
    )
