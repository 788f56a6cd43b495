"""Scores with clustered standard errors, and paired differences between two models.

Every score is a ratio of sums, r = sum(y) / sum(x) over items: for accuracy x is 1, for bits per byte y is an item's
bits and x its bytes. Its error is the linearised one of a ratio, with items of one cluster (a document) added up before
they are squared, since they are not independent:

    u_i = (y_i - r x_i) / sum(x)        Var(r) = G / (G - 1) * sum_g (sum_{i in g} u_i)^2

The paired difference of two models on the same items takes u_i = u_i(b) - u_i(a), so that what both find hard cancels.
The bootstrap resamples whole clusters. All arithmetic is float64; cost is O(items + resamples * clusters).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from longhaul_core.errors import InvalidArgument

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
NORMAL_95 = 1.959963984540054
_RESAMPLES_A_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Items:
    """Per-item results of one task: numerators, denominators, and the index of each item's cluster.

    `numerator`: float64[N], `denominator`: float64[N], `cluster`: int64[N] in 0..G-1.
    """

    numerator: Floats
    denominator: Floats
    cluster: Integers

    def __post_init__(self) -> None:
        if not len(self.numerator) == len(self.denominator) == len(self.cluster) > 0:
            raise InvalidArgument("a score needs items, of equally long columns", reason="NO_ITEMS")
        if not (np.isfinite(self.numerator).all() and np.isfinite(self.denominator).all()):
            raise InvalidArgument("an item's result is not finite", reason="NOT_FINITE")
        if not self.denominator.sum() > 0:
            raise InvalidArgument("the items' weights sum to nothing", reason="NO_WEIGHT")

    @property
    def clusters(self) -> int:
        """Number of clusters."""
        return int(self.cluster.max()) + 1


@dataclass(frozen=True, slots=True)
class Score:
    """A score and its clustered standard error, which is NaN where one cluster alone tells nothing of it."""

    value: float
    standard_error: float
    items: int
    clusters: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Score of `b` minus score of `a` on the same items."""

    score_a: Score
    score_b: Score
    difference: float
    standard_error: float
    z: float
    p_value: float
    normal: Interval
    bootstrap: Interval


def cluster_indices(clusters: list[str]) -> Integers:
    """Return the index of each item's cluster, int64[N]; an empty name is a cluster of its own."""
    named = [name or f"\x00{index}" for index, name in enumerate(clusters)]
    return np.unique(np.asarray(named), return_inverse=True)[1].astype(np.int64)


def score(items: Items) -> Score:
    """Return the ratio of sums with its clustered standard error."""
    value, influence = _linearised(items)
    error = _clustered_error(influence, items)
    return Score(value, error, len(items.numerator), items.clusters)


def compare(a: Items, b: Items, *, resamples: int = 2000, seed: int = 0) -> PairedDifference:
    """Return the paired difference `b - a`.

    Args:
        a: the baseline.
        b: the candidate, with the same items in the same order.
        resamples: bootstrap resamples of whole clusters.
        seed: of the resampling.

    Raises:
        InvalidArgument: the items do not pair.
    """
    if not np.array_equal(a.cluster, b.cluster):
        raise InvalidArgument("the two sides have different items", reason="ITEMS_DIFFER")
    value_a, influence_a = _linearised(a)
    value_b, influence_b = _linearised(b)
    difference = value_b - value_a
    error = _clustered_error(influence_b - influence_a, a)
    z = _standardised(difference, error)
    return PairedDifference(
        score_a=score(a),
        score_b=score(b),
        difference=difference,
        standard_error=error,
        z=z,
        p_value=math.erfc(abs(z) / math.sqrt(2)),
        normal=Interval(difference - NORMAL_95 * error, difference + NORMAL_95 * error),
        bootstrap=_bootstrap(a, b, resamples, seed),
    )


def _standardised(difference: float, error: float) -> float:
    if error == 0 and difference != 0:
        return math.copysign(math.inf, difference)
    return difference / error if error != 0 else math.nan


def _linearised(items: Items) -> tuple[float, Floats]:
    total = items.denominator.sum()
    value = float(items.numerator.sum() / total)
    return value, (items.numerator - value * items.denominator) / total


def _clustered_error(influence: Floats, items: Items) -> float:
    groups = items.clusters
    if groups < 2:
        return math.nan
    sums = np.bincount(items.cluster, weights=influence, minlength=groups)
    return math.sqrt(groups / (groups - 1) * float(np.square(sums).sum()))


def _bootstrap(a: Items, b: Items, resamples: int, seed: int) -> Interval:
    groups = a.clusters
    if groups < 2:
        return Interval(math.nan, math.nan)
    columns = (a.numerator, a.denominator, b.numerator, b.denominator)
    sums: Floats = np.stack(
        [np.bincount(a.cluster, weights=column, minlength=groups).astype(np.float64) for column in columns], axis=1
    )
    generator = np.random.default_rng(seed)
    differences = np.concatenate(
        [_resample(sums, size, generator) for size in _block_sizes(resamples)],
    )
    low, high = np.nanquantile(differences, [0.025, 0.975])
    return Interval(float(low), float(high))


def _resample(sums: Floats, size: int, generator: np.random.Generator) -> Floats:
    groups = len(sums)
    weights = generator.multinomial(groups, np.full(groups, 1.0 / groups), size=size)
    totals = weights.astype(np.float64) @ sums
    with np.errstate(divide="ignore", invalid="ignore"):
        differences: Floats = totals[:, 2] / totals[:, 3] - totals[:, 0] / totals[:, 1]
    return differences


def _block_sizes(resamples: int) -> list[int]:
    full, rest = divmod(resamples, _RESAMPLES_A_BLOCK)
    return [_RESAMPLES_A_BLOCK] * full + ([rest] if rest else [])
