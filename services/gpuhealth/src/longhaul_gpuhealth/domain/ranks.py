"""The GPUs of a run side by side: who is out of line, in robust deviations from the run's median. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from longhaul_gpuhealth.domain.fleet import LEAST_DEVIATION_SHARE, NORMAL_DEVIATION
from longhaul_gpuhealth.domain.model import GpuVerdict, HealthState, NodeVerdict


@dataclass(frozen=True, slots=True)
class RankView:
    """One GPU of a run; `deviations` says by how many deviations each signal lies above the run's median."""

    rank: int
    node: str
    gpu: int
    state: HealthState
    signals: Mapping[str, float]
    deviations: Mapping[str, float]
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All GPUs of a run by rank, and the medians that they are compared with."""

    ranks: tuple[RankView, ...]
    medians: Mapping[str, float]


def compare_ranks(verdicts: Iterable[NodeVerdict], project: str, run: str) -> Comparison:
    """Compare the GPUs that a run uses."""
    rows = [
        (verdict, gpu)
        for verdict in verdicts
        for gpu in verdict.gpus
        if gpu.job is not None and (gpu.job.project, gpu.job.run) == (project, run)
    ]
    names = sorted({name for _, gpu in rows for name in gpu.signals} - {"xid"})
    medians, spreads = {}, {}
    for name in names:
        values = np.array([gpu.signals[name] for _, gpu in rows if name in gpu.signals])
        median = float(np.median(values))
        spread = NORMAL_DEVIATION * float(np.median(np.abs(values - median)))
        medians[name], spreads[name] = median, max(spread, LEAST_DEVIATION_SHARE * abs(median), 1e-9)
    views = [_view(verdict, gpu, medians, spreads) for verdict, gpu in rows]
    return Comparison(tuple(sorted(views, key=lambda one: (one.rank, one.node, one.gpu))), medians)


def _view(
    verdict: NodeVerdict, gpu: GpuVerdict, medians: Mapping[str, float], spreads: Mapping[str, float]
) -> RankView:
    assert gpu.job is not None
    deviations = {name: (gpu.signals[name] - medians[name]) / spreads[name] for name in medians if name in gpu.signals}
    rules = tuple(one.rule for one in verdict.findings if one.gpu == gpu.index)
    return RankView(gpu.job.rank, verdict.node, gpu.index, gpu.state, dict(gpu.signals), deviations, rules)
