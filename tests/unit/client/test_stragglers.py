"""Ranks' own times beside their GPUs' signals."""

from __future__ import annotations

import pytest
from longhaul.gpuhealth.v1 import node_health_pb2 as health
from longhaul.training.v1 import training_run_pb2 as training
from longhaul_client.stragglers import OWN_STEP_SECONDS, add_step_times


def comparison(*gpus: tuple[str, int, int]) -> health.CompareRanksResponse:
    rows = [
        health.RankComparison(rank=rank, node=node, gpu=gpu, signals={"sm_clock_mhz": 1980.0})
        for node, gpu, rank in gpus
    ]
    return health.CompareRanksResponse(ranks=rows, medians={"sm_clock_mhz": 1980.0})


def rank(number: int, node: str, gpu: int, seconds: float) -> training.RankStatus:
    return training.RankStatus(rank=number, node=node, gpu_index=gpu, own_step_seconds=seconds)


def test_slow_rank_stands_out_beside_its_gpu() -> None:
    answer = comparison(("n0", 0, 0), ("n0", 1, 1), ("n1", 0, 2), ("n1", 1, 3))
    times = [0.100, 0.101, 0.180, 0.099]
    add_step_times(answer, [rank(n, f"n{n // 2}", n % 2, value) for n, value in enumerate(times)])
    assert [one.rank for one in answer.ranks] == [0, 1, 2, 3]
    assert [one.signals[OWN_STEP_SECONDS] for one in answer.ranks] == times
    assert answer.medians[OWN_STEP_SECONDS] == pytest.approx(0.1005)
    far = [abs(one.deviations[OWN_STEP_SECONDS]) > 3 for one in answer.ranks]
    assert far == [False, False, True, False]
    assert answer.ranks[2].signals["sm_clock_mhz"] == 1980.0


def test_ranks_of_training_win_after_a_repair() -> None:
    answer = comparison(("spare", 0, 2), ("n0", 0, 0))
    add_step_times(answer, [rank(0, "n0", 0, 0.1), rank(1, "spare", 0, 0.1)])
    assert [(one.rank, one.node) for one in answer.ranks] == [(0, "n0"), (1, "spare")]


def test_rank_whose_gpu_nobody_knows_gets_a_row() -> None:
    answer = comparison(("n0", 0, 0))
    add_step_times(answer, [rank(0, "n0", 0, 0.1), rank(1, "n9", 0, 0.1), rank(2, "n8", 0, 0.0)])
    assert [(one.rank, one.node, one.gpu) for one in answer.ranks] == [(0, "n0", 0), (1, "n9", -1)]


def test_run_that_tells_no_times_is_left_as_it_is() -> None:
    answer = comparison(("n0", 0, 0))
    add_step_times(answer, [])
    assert OWN_STEP_SECONDS not in answer.medians
    assert len(answer.ranks) == 1
