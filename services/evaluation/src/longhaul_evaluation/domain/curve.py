"""A score over training steps, and how good a task it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longhaul_evaluation.domain.statistics import Floats


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The score of one checkpoint."""

    step: int
    value: float
    standard_error: float
    evaluation: str


@dataclass(frozen=True, slots=True)
class TaskQuality:
    """Whether a task can guide decisions: it should rise steadily with training and stand out of its noise.

    `spearman` is the rank correlation of step and score, signed so that +1 is steady improvement; NaN below 2 points
    or for a constant score. `signal_to_noise` is the range of the scores over the mean standard error.
    """

    points: int
    spearman: float
    signal_to_noise: float


def task_quality(points: Sequence[CurvePoint], *, higher_is_better: bool) -> TaskQuality:
    """Judge a task by its curve."""
    steps = np.asarray([point.step for point in points], dtype=np.float64)
    values = np.asarray([point.value for point in points], dtype=np.float64)
    errors = np.asarray([point.standard_error for point in points], dtype=np.float64)
    sign = 1.0 if higher_is_better else -1.0
    noise = float(np.nanmean(errors)) if np.isfinite(errors).any() else float("nan")
    spread = float(np.ptp(values)) if len(values) else float("nan")
    return TaskQuality(
        points=len(points),
        spearman=sign * spearman(steps, values),
        signal_to_noise=spread / noise if noise > 0 else float("nan"),
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
