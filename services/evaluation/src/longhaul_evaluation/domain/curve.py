"""Scores over training steps, and how good a task each makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longhaul_evaluation.domain.evaluation import Evaluation, MetricScore
from longhaul_evaluation.domain.statistics import Floats

ScoreKey = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The scores of one step."""

    step: int
    checkpoint: str
    scores: tuple[MetricScore, ...]


@dataclass(frozen=True, slots=True)
class TaskQuality:
    """Whether a task can guide decisions: it should rise steadily with training and stand out of its noise.

    `spearman` is the rank correlation of step and score, signed so that +1 is steady improvement; NaN below 2 points
    or for a constant score. `signal_to_noise` is the range of the scores over their mean standard error.
    """

    key: ScoreKey
    points: int
    spearman: float
    above_chance: bool | None
    signal_to_noise: float


def curve(evaluations: Sequence[Evaluation]) -> list[CurvePoint]:
    """Return the scores by step. Where a step was evaluated more than once, the newest epoch, then the last one, wins.

    Args:
        evaluations: the succeeded evaluations of a run, oldest first.
    """
    points: dict[int, CurvePoint] = {}
    for evaluation in sorted(evaluations, key=lambda it: (it.step, it.epoch)):
        before = points.get(evaluation.step)
        scores = {score.key: score for score in (*(before.scores if before else ()), *evaluation.scores)}
        points[evaluation.step] = CurvePoint(evaluation.step, evaluation.spec.checkpoint, tuple(scores.values()))
    return list(points.values())


def qualities(points: Sequence[CurvePoint]) -> list[TaskQuality]:
    """Judge each task by its curve."""
    series: dict[ScoreKey, list[tuple[int, MetricScore]]] = {}
    for point in points:
        for score in point.scores:
            series.setdefault(score.key, []).append((point.step, score))
    return [task_quality(scores) for scores in series.values()]


def task_quality(series: Sequence[tuple[int, MetricScore]]) -> TaskQuality:
    """Judge one task by its scores over the steps, lowest step first; there is at least one."""
    last = series[-1][1]
    steps = np.asarray([step for step, _ in series], dtype=np.float64)
    values = np.asarray([score.value for _, score in series], dtype=np.float64)
    errors = np.asarray([score.standard_error for _, score in series], dtype=np.float64)
    noise = float(np.nanmean(errors)) if np.isfinite(errors).any() else float("nan")
    return TaskQuality(
        key=last.key,
        points=len(series),
        spearman=(1.0 if last.higher_is_better else -1.0) * spearman(steps, values),
        above_chance=last.above_chance,
        signal_to_noise=float(np.ptp(values)) / noise if noise > 0 else float("nan"),
    )


def spearman(x: Floats, y: Floats) -> float:
    """Return Spearman's rank correlation with average ranks for ties; NaN where a side is constant."""
    if len(x) < 2:
        return float("nan")
    rank_x, rank_y = _average_ranks(x), _average_ranks(y)
    rank_x -= rank_x.mean()
    rank_y -= rank_y.mean()
    scale = np.sqrt(np.square(rank_x).sum() * np.square(rank_y).sum())
    return float((rank_x * rank_y).sum() / scale) if scale > 0 else float("nan")


def _average_ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    means: Floats = last - (counts - 1) / 2.0
    return means[inverse]
