"""An evaluation as a value, and how it advances with what is seen of its inputs and of its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from longhaul_core.errors import InvalidArgument

DEFAULT_BATCH_SIZE = 8
MAXIMUM_TASKS = 100
MAXIMUM_FEW_SHOT = 64


class State(StrEnum):
    """States of evaluations and suites."""

    QUEUED = "QUEUED"
    WAITING_FOR_INPUTS = "WAITING_FOR_INPUTS"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


TERMINAL_STATES = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
ACTIVE_STATES = frozenset(State) - TERMINAL_STATES

CHECKPOINT_GONE = "CHECKPOINT_GONE"


@dataclass(frozen=True, slots=True)
class Selection:
    """One task of the token set; `limit` 0 takes all items."""

    task: str
    few_shot: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is in its state, for a person."""

    code: str
    message: str
    action: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """What an evaluation scores. `checkpoint` and `token_set` are resource names."""

    checkpoint: str
    token_set: str
    tasks: tuple[Selection, ...]
    batch_size: int = DEFAULT_BATCH_SIZE
    seed: int = 0


@dataclass(frozen=True, slots=True)
class MetricScore:
    """One score as the catalogue keeps it."""

    task: str
    few_shot: int
    metric: str
    value: float
    standard_error: float
    items: int
    clusters: int
    higher_is_better: bool
    chance: float | None = None

    @property
    def key(self) -> tuple[str, int, str]:
        """What makes two scores the same measurement."""
        return self.task, self.few_shot, self.metric

    @property
    def above_chance(self) -> bool | None:
        """Whether the score is better than guessing by two standard errors; None where there is no guessing."""
        if self.chance is None:
            return None
        lead = self.value - self.chance if self.higher_is_better else self.chance - self.value
        return lead > 2 * self.standard_error


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation of the catalogue. `attempts` counts score tasks; `task` names the present one."""

    project: str
    id: str
    uid: str
    spec: EvaluationSpec
    state: State = State.QUEUED
    training_run: str = ""
    step: int = 0
    epoch: int = 0
    suite: str = ""
    reason: Reason | None = None
    task: str = ""
    result_key: str = ""
    attempts: int = 0
    scores: tuple[MetricScore, ...] = ()
    start_time: datetime | None = None
    end_time: datetime | None = None

    @property
    def name(self) -> str:
        """Resource name."""
        return f"projects/{self.project}/evaluations/{self.id}"

    @property
    def prefix(self) -> str:
        """Prefix of its objects."""
        return f"projects/{self.project}/evaluations/{self.id}/"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in TERMINAL_STATES

    def wait_for(self, reason: Reason) -> Evaluation:
        """Return the evaluation as one that lacks an input."""
        return replace(self, state=State.WAITING_FOR_INPUTS, reason=reason)

    def start_attempt(self, now: datetime) -> Evaluation:
        """Return the evaluation with the next score task named; the name is the same however often it is asked for."""
        attempt = self.attempts + 1
        return replace(
            self,
            state=State.QUEUED,
            reason=None,
            attempts=attempt,
            task=f"projects/{self.project}/tasks/score-{self.uid[:20]}-{attempt}",
            result_key=f"{self.prefix}result-{attempt}.json",
            start_time=self.start_time or now,
        )

    def without_task(self) -> Evaluation:
        """Return the evaluation as it was before its attempt was started; starting it again names the same task."""
        return replace(self, task="", result_key="", attempts=self.attempts - 1)

    def follow_task(self, running: bool, pending: str) -> Evaluation:
        """Return the evaluation with what its unfinished task says."""
        if self.state is State.CANCELLING:
            return self
        reason = Reason("TASK_PENDING", pending) if pending and not running else None
        return replace(self, state=State.RUNNING if running else State.QUEUED, reason=reason)

    def fail_attempt(self, reason: Reason, *, budget: int, now: datetime) -> Evaluation:
        """Return the evaluation after a failed task: ready for another one, or failed when the budget is spent."""
        if self.attempts >= budget:
            attempts = f"{self.attempts} attempt{'s' if self.attempts > 1 else ''}"
            return self.fail(replace(reason, message=f"{reason.message} (after {attempts})"), now)
        return replace(self, state=State.QUEUED, task="", result_key="", reason=reason)

    def succeed(self, scores: tuple[MetricScore, ...], now: datetime) -> Evaluation:
        """Return the evaluation with its scores."""
        return replace(self, state=State.SUCCEEDED, scores=scores, reason=None, end_time=now)

    def fail(self, reason: Reason, now: datetime) -> Evaluation:
        """Return the failed evaluation."""
        return replace(self, state=State.FAILED, reason=reason, end_time=now)

    def request_cancel(self) -> Evaluation:
        """Return the evaluation as one whose work is being stopped; a terminal one stays."""
        return self if self.is_terminal else replace(self, state=State.CANCELLING)

    def cancel(self, now: datetime, reason: Reason | None = None) -> Evaluation:
        """Return the cancelled evaluation."""
        return replace(self, state=State.CANCELLED, reason=reason, end_time=now)


def check_selections(tasks: tuple[Selection, ...]) -> None:
    """Refuse tasks that cannot be scored, field by field.

    Raises:
        InvalidArgument: no task, one twice, or numbers out of range.
    """
    violations = [] if 0 < len(tasks) <= MAXIMUM_TASKS else [("tasks", f"needs 1 to {MAXIMUM_TASKS} tasks")]
    seen: set[tuple[str, int]] = set()
    for index, selection in enumerate(tasks):
        if not selection.task:
            violations.append((f"tasks[{index}].task", "is empty"))
        if not 0 <= selection.few_shot <= MAXIMUM_FEW_SHOT:
            violations.append((f"tasks[{index}].few_shot", f"{selection.few_shot} is not in 0 to {MAXIMUM_FEW_SHOT}"))
        if selection.limit < 0:
            violations.append((f"tasks[{index}].limit", f"{selection.limit} is negative"))
        if (selection.task, selection.few_shot) in seen:
            violations.append((f"tasks[{index}]", f"{selection.task!r} with {selection.few_shot} shots occurs twice"))
        seen.add((selection.task, selection.few_shot))
    if violations:
        field_name, text = violations[0]
        raise InvalidArgument(
            f"the tasks cannot be scored: {field_name}: {text}", reason="INVALID_TASKS", violations=violations
        )
