"""Step times of a run's ranks beside the clocks, power and use of their GPUs.

GPU health knows the GPUs, training knows the ranks and their times; neither asks the other, so the two views meet here.
"""

import statistics
from collections.abc import Iterable
from itertools import groupby

from longhaul.gpuhealth.v1 import node_health_pb2
from longhaul.training.v1 import training_run_pb2

OWN_STEP_SECONDS = "own_step_seconds"
NORMAL_DEVIATION = 1.4826
"""Standard deviations of a normal distribution in one median absolute deviation."""
LEAST_DEVIATION_SHARE = 0.02
"""Times of equal ranks differ by as much from step to step: that is one deviation at least."""


def add_step_times(
    comparison: node_health_pb2.CompareRanksResponse, ranks: Iterable[training_run_pb2.RankStatus]
) -> None:
    """Add each rank's own time in a step to its GPU's signals, as `own_step_seconds`, with median and deviations.

    A node's GPUs and ranks are joined in their order where there are as many of both; the rank is then training's, for
    after a repair it no longer follows from the pod. A rank whose GPU is not known gets a row of its own.
    """
    working = sorted((one for one in ranks if one.own_step_seconds > 0), key=lambda one: (one.node, one.gpu_index))
    for node, group in groupby(working, key=lambda one: one.node):
        members = list(group)
        shown = sorted((one for one in comparison.ranks if one.node == node), key=lambda one: one.gpu)
        if len(shown) != len(members):
            shown = [comparison.ranks.add(node=node, gpu=-1) for _ in members]
        for row, member in zip(shown, members, strict=True):
            row.rank = member.rank
            row.signals[OWN_STEP_SECONDS] = member.own_step_seconds
    _compare(comparison)
    comparison.ranks.sort(key=lambda one: (one.rank, one.node, one.gpu))


def _compare(comparison: node_health_pb2.CompareRanksResponse) -> None:
    timed = [one for one in comparison.ranks if OWN_STEP_SECONDS in one.signals]
    if not timed:
        return
    times = [one.signals[OWN_STEP_SECONDS] for one in timed]
    median = statistics.median(times)
    spread = NORMAL_DEVIATION * statistics.median(abs(value - median) for value in times)
    deviation = max(spread, LEAST_DEVIATION_SHARE * median)
    comparison.medians[OWN_STEP_SECONDS] = median
    for one in timed:
        one.deviations[OWN_STEP_SECONDS] = (one.signals[OWN_STEP_SECONDS] - median) / deviation
