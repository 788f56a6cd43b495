"""Scores and intervals against formulas written out independently, scipy, and known truth by simulation."""

import math

import numpy as np
import pytest
import scipy.stats
from longhaul_core.errors import InvalidArgument
from longhaul_evaluation.domain.curve import spearman
from longhaul_evaluation.domain.statistics import Items, cluster_indices, compare, score


def _items(numerator, cluster, denominator=None):
    numerator = np.asarray(numerator, np.float64)
    denominator = np.ones_like(numerator) if denominator is None else np.asarray(denominator, np.float64)
    return Items(numerator, denominator, np.asarray(cluster, np.int64))


def _loop_error(numerator, denominator, cluster):
    """Clustered standard error of a ratio, straight from the definition, in exact-order Python floats."""
    total_y, total_x = math.fsum(numerator), math.fsum(denominator)
    ratio = total_y / total_x
    groups = sorted(set(cluster))
    squares = []
    for group in groups:
        residual = math.fsum(
            y - ratio * x for y, x, g in zip(numerator, denominator, cluster, strict=True) if g == group
        )
        squares.append((residual / total_x) ** 2)
    return math.sqrt(len(groups) / (len(groups) - 1) * math.fsum(squares))


def test_score_of_independent_items_has_scipys_standard_error():
    values = np.random.default_rng(1).normal(size=200)
    result = score(_items(values, range(200)))
    assert result.value == pytest.approx(values.mean(), rel=1e-12)
    assert result.standard_error == pytest.approx(scipy.stats.sem(values), rel=1e-12)


def test_score_of_a_weighted_ratio_matches_the_definition():
    rng = np.random.default_rng(2)
    bytes_, cluster = rng.integers(1, 500, 120).astype(float), rng.integers(0, 17, 120)
    cluster = np.unique(cluster, return_inverse=True)[1]
    bits = bytes_ * 2 + rng.normal(size=120)
    result = score(_items(bits, cluster, bytes_))
    assert result.value == pytest.approx(math.fsum(bits) / math.fsum(bytes_), rel=1e-12)
    assert result.standard_error == pytest.approx(_loop_error(bits, bytes_, list(cluster)), rel=1e-10)
    assert (result.items, result.clusters) == (120, 17)


def test_paired_difference_of_independent_items_equals_scipys_paired_test():
    rng = np.random.default_rng(3)
    a = rng.normal(size=400)
    b = a + 0.05 + 0.3 * rng.normal(size=400)
    result = compare(_items(a, range(400)), _items(b, range(400)))
    reference = scipy.stats.ttest_rel(b, a)
    assert result.difference == pytest.approx((b - a).mean(), rel=1e-10)
    assert result.z == pytest.approx(reference.statistic, rel=1e-10)
    assert result.p_value == pytest.approx(2 * scipy.stats.norm.sf(abs(reference.statistic)), rel=1e-9)
    bounds = scipy.stats.norm.interval(0.95, loc=result.difference, scale=result.standard_error)
    assert (result.normal.low, result.normal.high) == pytest.approx(bounds, rel=1e-9)


def test_paired_difference_of_clusters_matches_the_definition():
    rng = np.random.default_rng(4)
    cluster = np.sort(np.concatenate([np.arange(25), rng.integers(0, 25, 275)]))
    weights = rng.integers(10, 400, 300).astype(float)
    a, b = weights * rng.normal(3, 1, 300), weights * rng.normal(2.5, 1, 300)
    result = compare(_items(a, cluster, weights), _items(b, cluster, weights))
    assert result.difference == pytest.approx((b.sum() - a.sum()) / weights.sum(), rel=1e-12)
    assert result.standard_error == pytest.approx(_loop_error(b - a, weights, list(cluster)), rel=1e-10)


def test_bootstrap_interval_agrees_with_scipys_percentile_bootstrap():
    rng = np.random.default_rng(5)
    cluster = np.repeat(np.arange(60), 5)
    a = np.repeat(rng.normal(size=60), 5) + rng.normal(size=300)
    b = a + 0.2 + np.repeat(0.3 * rng.normal(size=60), 5)
    result = compare(_items(a, cluster), _items(b, cluster), resamples=8000, seed=1)
    per_cluster = (b - a).reshape(60, 5).mean(1)
    reference = scipy.stats.bootstrap(
        (per_cluster,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(6)
    ).confidence_interval
    width = reference.high - reference.low
    assert result.bootstrap.low == pytest.approx(reference.low, abs=0.05 * width)
    assert result.bootstrap.high == pytest.approx(reference.high, abs=0.05 * width)


def test_true_null_with_clustered_items_is_rejected_about_five_percent_of_the_time():
    rng = np.random.default_rng(7)
    cluster = np.repeat(np.arange(50), 8)
    rejected_clustered = rejected_naive = rejected_bootstrap = 0
    trials = 400
    for trial in range(trials):
        a = rng.normal(size=400)
        b = a + np.repeat(rng.normal(size=50), 8) + 0.3 * rng.normal(size=400)
        result = compare(_items(a, cluster), _items(b, cluster), resamples=400, seed=trial)
        rejected_clustered += result.p_value < 0.05
        rejected_bootstrap += not result.bootstrap.low <= 0 <= result.bootstrap.high
        rejected_naive += compare(_items(a, range(400)), _items(b, range(400)), resamples=1).p_value < 0.05
    assert rejected_clustered / trials < 0.09
    assert rejected_bootstrap / trials < 0.10
    assert rejected_naive / trials > 0.3


def test_single_cluster_has_no_standard_error():
    items = _items([1.0, 2.0], [0, 0])
    result = compare(items, items)
    assert math.isnan(score(items).standard_error)
    assert math.isnan(result.z)
    assert math.isnan(result.bootstrap.low)


def test_sides_with_other_items_are_refused():
    with pytest.raises(InvalidArgument) as caught:
        compare(_items([1, 2], [0, 1]), _items([1, 2, 3], [0, 1, 2]))
    assert caught.value.reason == "ITEMS_DIFFER"


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf]])
def test_items_that_are_no_numbers_are_refused(values):
    with pytest.raises(InvalidArgument):
        _items(values, range(len(values)))


def test_cluster_names_become_indices_and_nameless_items_stand_alone():
    indices = cluster_indices(["d1", "", "d1", "", "d0"])
    assert indices[0] == indices[2]
    assert len(set(indices.tolist())) == 4


def test_spearman_matches_scipy_with_ties():
    rng = np.random.default_rng(8)
    for _ in range(50):
        x, y = rng.integers(0, 8, 20).astype(float), rng.integers(0, 8, 20).astype(float)
        assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
