"""Why a run does not train now: its place in the queue and the resource it lacks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from longhaul_training.domain.admission import ProjectLimits, Usage, admission_order
from longhaul_training.domain.shortage import Missing
from longhaul_training.domain.states import Reason, Run, RunState

SHOWN_AHEAD = 10


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a waiting run lacks, the most important first, and who goes before it."""

    missing: tuple[Missing, ...] = ()
    position: int = 0
    ahead: tuple[str, ...] = ()


def explain(run: Run, live: Sequence[Run], limits: Mapping[str, ProjectLimits], now: float) -> Explanation:
    """Explains one run among all that are not over."""
    reason, spec = run.control.reason, run.spec
    if run.control.state is RunState.WAITING_FOR_INPUTS:
        return Explanation((Missing("input", 1, 0, "", reason.message),))
    if run.control.state is RunState.RECOVERING and reason.code == "NO_SPARE":
        return Explanation((Missing("spare", 1, 0, "nodes", reason.message),))
    if run.control.state is not RunState.QUEUED:
        return Explanation()
    usage = Usage(limits)
    for other in live:
        if other.control.state.holds_gpus:
            usage.add(other)
    order = list(admission_order([r for r in live if r.control.state is RunState.QUEUED], usage, now))
    names = [other.name for other in order]
    position = names.index(run.name) if run.name in names else 0
    missing = _missing(run, usage, reason)
    if position and reason.code == "BEHIND_IN_QUEUE":
        missing = (Missing("turn", position, 0, "runs", reason.message), *missing)
    if not missing and reason.code:
        needed = spec.pods * spec.gpus_per_pod
        missing = (Missing("nodes", needed, 0, "GPUs", reason.message),)
    return Explanation(missing, position + 1, tuple(names[max(0, position - SHOWN_AHEAD) : position]))


def _missing(run: Run, usage: Usage, reason: Reason) -> tuple[Missing, ...]:
    found: list[Missing] = []
    quota = usage.limits.get(run.project, ProjectLimits()).gpu_quota
    used = usage.gpus.get(run.project, 0)
    if quota and used + run.spec.gpus > quota:
        text = f"project {run.project!r} uses {used} of its {quota} GPU(s)"
        found.append(Missing("quota", run.spec.gpus, max(0, quota - used), "GPUs", text))
    if reason.code in ("POOL_UNKNOWN", "NO_MATCHING_NODE"):
        found.append(Missing("pool", run.spec.pods, 0, "nodes", reason.message))
    if reason.code in ("NO_CAPACITY", "CLUSTER_TOO_SMALL"):
        found.append(Missing("nodes", run.spec.pods, reason.available, "nodes", reason.message))
    return tuple(found)
