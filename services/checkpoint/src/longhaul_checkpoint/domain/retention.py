"""Which checkpoints of a run are kept: the mark of mark and sweep."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from longhaul_core.errors import InvalidArgument


class KeepReason(StrEnum):
    """Why a checkpoint stays."""

    LATEST_VERIFIED = "latest-verified"
    PINNED = "pinned"
    LEASED = "leased"
    LAST = "last"
    EVERY = "every"
    BEST = "best"
    MILESTONE = "milestone"


class Direction(StrEnum):
    """Which values of a metric are better."""

    LOWER = "lower"
    HIGHER = "higher"


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What to keep beside the latest verified, the pinned and the leased ones."""

    keep_last: int = 3
    keep_every_steps: int = 0
    milestone_steps: tuple[int, ...] = ()
    best_metric: str = ""
    best_count: int = 0
    best_direction: Direction = Direction.LOWER

    def __post_init__(self) -> None:
        least = (("keep_last", self.keep_last, 1), ("keep_every_steps", self.keep_every_steps, 0))
        violations = [(name, f"is {value}, below {low}") for name, value, low in least if value < low]
        if self.best_count < 0:
            violations.append(("keep_best", f"is {self.best_count}, below 0"))
        if self.best_count and not self.best_metric:
            violations.append(("best_metric", "is needed where best_count is given"))
        if violations:
            raise InvalidArgument(
                f"the retention policy is invalid: {violations[0][0]} {violations[0][1]}",
                reason="INVALID_RETENTION",
                violations=violations,
            )


@dataclass(frozen=True, slots=True)
class Candidate:
    """What retention needs to know of a committed checkpoint."""

    id: str
    step: int
    epoch: int
    intact: bool = True
    pinned: bool = False
    leased: bool = False
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """Keep, with every reason, or delete, with none."""

    id: str
    reasons: tuple[KeepReason, ...]

    @property
    def keep(self) -> bool:
        """Whether the checkpoint stays."""
        return bool(self.reasons)


def decide(candidates: Sequence[Candidate], policy: RetentionPolicy, *, latest: Collection[str]) -> list[Decision]:
    """Mark the checkpoints of one run.

    Args:
        candidates: every committed checkpoint of the run, damaged ones too, in any order.
        policy: what to keep.
        latest: the head of the run's present line and the newest verified one on it. They stay.
    """
    newest_first = sorted(candidates, key=lambda candidate: (candidate.epoch, candidate.step), reverse=True)
    intact = [candidate for candidate in newest_first if candidate.intact]
    newest = {*latest, *(candidate.id for candidate in intact[:1])}
    last = {candidate.id for candidate in intact[: policy.keep_last]}
    best = _best(intact, policy)
    return [
        Decision(candidate.id, tuple(_reasons(candidate, policy, newest=newest, last=last, best=best)))
        for candidate in newest_first
    ]


def _best(intact: Sequence[Candidate], policy: RetentionPolicy) -> set[str]:
    measured = [candidate for candidate in intact if policy.best_metric in candidate.metrics]
    sign = 1.0 if policy.best_direction is Direction.LOWER else -1.0
    ranked = sorted(measured, key=lambda candidate: sign * candidate.metrics[policy.best_metric])
    return {candidate.id for candidate in ranked[: policy.best_count]}


def _reasons(
    candidate: Candidate, policy: RetentionPolicy, *, newest: set[str], last: set[str], best: set[str]
) -> list[KeepReason]:
    periodic = policy.keep_every_steps > 0 and candidate.step % policy.keep_every_steps == 0
    facts = (
        (KeepReason.LATEST_VERIFIED, candidate.id in newest),
        (KeepReason.PINNED, candidate.pinned),
        (KeepReason.LEASED, candidate.leased),
        (KeepReason.LAST, candidate.id in last),
        (KeepReason.EVERY, candidate.intact and periodic),
        (KeepReason.BEST, candidate.id in best),
        (KeepReason.MILESTONE, candidate.intact and candidate.step in policy.milestone_steps),
    )
    return [reason for reason, holds in facts if holds]
