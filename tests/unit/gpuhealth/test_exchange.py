"""Peers that several replicas watch: what they tell one another is as good as one replica that sees all."""

from __future__ import annotations

import random

import numpy as np
import pytest
from longhaul_gpuhealth.domain.exchange import QUANTILES, Pooled, summarize
from longhaul_gpuhealth.domain.fleet import Crowd, Peers

TIME = 1000.0


def peers(values: dict[tuple[str, int], float]) -> Peers:
    made = Peers()
    for key, value in values.items():
        made.put("h100", key, value, TIME)
    return made


def drawn(count: int, seed: int) -> dict[tuple[str, int], float]:
    source = random.Random(seed)
    return {(f"n{seed}-{number // 8}", number % 8): source.gauss(1980.0, 20.0) for number in range(count)}


@pytest.mark.parametrize(("mine", "theirs"), [(1, 1), (7, 2), (30, 64), (0, 5)])
def test_small_groups_are_compared_exactly(mine: int, theirs: int) -> None:
    here, there = drawn(mine, 1), drawn(theirs, 2)
    own = peers(here)
    own.hear("other", peers(there).summaries(TIME), TIME)
    whole = peers({**here, **there}).group("h100", TIME)
    pooled = own.group("h100", TIME)
    assert (pooled.count, pooled.best) == (whole.count, whole.best)
    assert pooled.median == pytest.approx(whole.median)
    assert pooled.deviation == pytest.approx(whole.deviation)
    assert pooled.best_owner in (whole.best_owner, None)


def test_large_groups_are_compared_nearly_exactly() -> None:
    here, there = drawn(3000, 3), drawn(5000, 4)
    own = peers(here)
    told = peers(there).summaries(TIME)
    assert len(told["h100"].values) == QUANTILES
    own.hear("other", told, TIME)
    pooled, every = own.group("h100", TIME), np.array([*here.values(), *there.values()])
    assert pooled.count == 8000
    assert pooled.best == pytest.approx(every.max())
    assert abs(pooled.median - np.median(every)) < 0.02 * every.std()
    assert pooled.deviation == pytest.approx(1.4826 * np.median(np.abs(every - np.median(every))), rel=0.02)


def test_median_of_weights_is_that_of_the_values_repeated() -> None:
    pooled = Pooled.of([5.0, 1.0], [summarize([2.0, 9.0, 9.0])])
    assert (pooled.count, pooled.median()) == (5, 5.0)
    assert Pooled.of([1.0, 3.0], []).median() == 2.0


def test_what_a_silent_replica_told_is_forgotten() -> None:
    own = peers(drawn(4, 1))
    own.hear("other", peers(drawn(40, 2)).summaries(TIME), TIME)
    assert own.group("h100", TIME).count == 44
    later = TIME + 61.0
    for key, value in drawn(4, 1).items():
        own.put("h100", key, value, later)
    assert own.group("h100", later).count == 4


def test_crowd_counts_the_gpus_of_other_replicas() -> None:
    here, there = Crowd(60.0, 86400.0), Crowd(60.0, 86400.0)
    for number in range(4):
        here.add(TIME, ("a", number))
        there.add(TIME + 5.0, ("b", number))
    assert not here.shared(TIME, 8)
    here.hear("other", there.summary(TIME + 6.0), TIME + 6.0)
    assert here.shared(TIME, 8)
    here.hear("other", {}, TIME + 1200.0)
    assert here.shared(TIME, 8), "it is remembered for as long as rules look back"
    assert not here.shared(TIME + 600.0, 8)
    assert there.summary(TIME + 1200.0) == {}, "what is long past is not told again"
