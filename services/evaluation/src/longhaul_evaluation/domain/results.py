"""From the items of a score task to scores, and the comparison of two such results."""

from __future__ import annotations

import numpy as np
from longhaul_core.errors import FailedPrecondition
from longhaul_core.tasks import ScoreResult, TaskScore

from longhaul_evaluation.domain.evaluation import MetricScore
from longhaul_evaluation.domain.statistics import Items, PairedDifference, cluster_indices, compare, score


def metric_scores(result: ScoreResult) -> tuple[MetricScore, ...]:
    """Return the score of each task of a result, with clustered standard errors. Raises InvalidArgument."""
    return tuple(_metric_score(task) for task in result.scores)


def paired_differences(
    first: ScoreResult, second: ScoreResult, *, task: str, seed: int
) -> list[tuple[TaskScore, PairedDifference]]:
    """Compare two results, task by task: second minus first.

    Args:
        first: the baseline.
        second: the candidate.
        task: only this one; empty for all that both have.
        seed: of the bootstrap.

    Raises:
        FailedPrecondition: they have no task in common, or its items differ (NOT_COMPARABLE).
    """
    candidates = {_key(score): score for score in second.scores}
    pairs = [
        (score, candidates[_key(score)])
        for score in first.scores
        if _key(score) in candidates and task in ("", score.task)
    ]
    if not pairs:
        wanted = f"the task {task!r}" if task else "no task"
        raise _not_comparable(f"{wanted} is in both" if not task else f"{wanted} is not in both")
    return [(before, _paired(before, after, seed)) for before, after in pairs]


def _key(score: TaskScore) -> tuple[str, int, str]:
    return score.task, score.few_shot, score.metric


def _metric_score(task: TaskScore) -> MetricScore:
    result = score(_items(task))
    return MetricScore(
        task=task.task,
        few_shot=task.few_shot,
        metric=task.metric,
        value=result.value,
        standard_error=result.standard_error,
        items=result.items,
        clusters=result.clusters,
        higher_is_better=task.higher_is_better,
        chance=task.chance,
    )


def _paired(before: TaskScore, after: TaskScore, seed: int) -> PairedDifference:
    after = after.model_copy(update={"items": tuple(sorted(after.items, key=lambda item: item.id))})
    before = before.model_copy(update={"items": tuple(sorted(before.items, key=lambda item: item.id))})
    left = [(item.id, item.cluster, item.weight) for item in before.items]
    right = [(item.id, item.cluster, item.weight) for item in after.items]
    if left != right:
        raise _not_comparable(f"the items of {before.task!r} differ", task=before.task)
    return compare(_items(before), _items(after), seed=seed)


def _items(task: TaskScore) -> Items:
    return Items(
        numerator=np.asarray([item.value for item in task.items], dtype=np.float64),
        denominator=np.asarray([item.weight for item in task.items], dtype=np.float64),
        cluster=cluster_indices([item.cluster for item in task.items]),
    )


def _not_comparable(why: str, task: str = "") -> FailedPrecondition:
    return FailedPrecondition(
        f"the evaluations cannot be compared: {why}",
        reason="NOT_COMPARABLE",
        metadata={"task": task} if task else None,
        action="compare evaluations of the same token set and tasks",
    )
