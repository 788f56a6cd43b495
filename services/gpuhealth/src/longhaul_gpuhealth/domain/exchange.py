"""What replicas tell one another of the peers that each of them watches, so that all compare with all. Pure.

A group of up to 64 values is told whole, a larger one by 64 quantiles, extremes included: medians over several replicas
are exact for small groups and good to a hundredth of the spread for large ones. Costs one number a GPU and rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

QUANTILES = 64


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """`count` values of one group, as sorted `values` that stand for as many of them each."""

    count: int
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class PeerSummary:
    """What one replica knows: groups by rule and name, and on how many GPUs rules fired by rule and slot of time."""

    groups: Mapping[str, Mapping[str, GroupSummary]] = field(default_factory=dict)
    crowds: Mapping[str, Mapping[int, int]] = field(default_factory=dict)


def summarize(values: Iterable[float]) -> GroupSummary:
    """Describe the values of a group."""
    every = np.sort(np.fromiter(values, dtype=np.float64))
    if len(every) <= QUANTILES:
        return GroupSummary(len(every), every.tolist())
    return GroupSummary(len(every), np.quantile(every, np.linspace(0.0, 1.0, QUANTILES)).tolist())


@dataclass(frozen=True, slots=True)
class Pooled:
    """Values of several replicas, each with the number of GPUs that it stands for."""

    values: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]

    @classmethod
    def of(cls, own: Iterable[float], others: Iterable[GroupSummary]) -> Pooled:
        """Own values count once each."""
        values = [np.fromiter(own, dtype=np.float64)]
        weights = [np.ones(len(values[0]))]
        for other in others:
            if other.count and other.values:
                values.append(np.asarray(other.values, dtype=np.float64))
                weights.append(np.full(len(other.values), other.count / len(other.values)))
        return cls(np.concatenate(values), np.concatenate(weights))

    @property
    def count(self) -> int:
        """How many GPUs they stand for."""
        return round(float(self.weights.sum()))

    def median(self) -> float:
        """The median by weight; the mean of the two in the middle where both are."""
        return _median(self.values, self.weights)

    def deviation(self, median: float) -> float:
        """The median distance from `median`."""
        return _median(np.abs(self.values - median), self.weights)


def _median(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    order = np.argsort(values, kind="stable")
    ordered, reached = values[order], np.cumsum(weights[order])
    half = reached[-1] / 2
    low = int(np.searchsorted(reached, half - 1e-9))
    high = int(np.searchsorted(reached, half + 1e-9))
    return float((ordered[low] + ordered[min(high, len(ordered) - 1)]) / 2)
