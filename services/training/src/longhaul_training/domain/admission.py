"""In which order runs are admitted, what a project may use, and who makes room for whom. Pure.

Higher priority goes first; waiting raises it by one an aging period, so that nothing waits for ever. Among equals the
project that uses the least of what it may goes first, then the earlier request. A run that lacks nodes holds back
those behind it that could take its nodes, so that a stream of small runs can't starve a large one; a run over its
project's quota, or larger than the cluster, holds back nobody.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from longhaul_core.errors import ResourceExhausted

from longhaul_training.domain.placement import Capacity, place
from longhaul_training.domain.states import STEPPING_STATES, Run, RunState, StopPurpose

AGING_SECONDS = 1800.0
NO_CAPACITY = "NO_CAPACITY"
PRUNED_VICTIMS = 16


@dataclass(frozen=True, slots=True)
class ProjectLimits:
    """What a project may use; a quota of 0 is no limit."""

    gpu_quota: int = 0
    priority: int = 0


@dataclass(slots=True)
class Usage:
    """GPUs in use by project; grows as runs are admitted."""

    limits: Mapping[str, ProjectLimits] = field(default_factory=dict)
    gpus: dict[str, int] = field(default_factory=dict)

    def add(self, run: Run) -> None:
        """Books what a run uses while it trains."""
        self.gpus[run.project] = self.gpus.get(run.project, 0) + run.spec.gpus

    def share(self, project: str) -> float:
        """What a project uses of its quota; without quota, GPUs count by themselves."""
        used = self.gpus.get(project, 0)
        quota = self.limits.get(project, ProjectLimits()).gpu_quota
        return used / quota if quota else float(used)


def base_priority(run: Run, limits: Mapping[str, ProjectLimits]) -> int:
    """The run's priority and its project's."""
    return limits.get(run.project, ProjectLimits()).priority + run.spec.priority


def queue_priority(run: Run, limits: Mapping[str, ProjectLimits], now: float) -> int:
    """The priority with which a run waits: it grows while the run is queued."""
    waited = max(0.0, now - run.control.since)
    return base_priority(run, limits) + int(waited // AGING_SECONDS)


def admission_order(runs: Iterable[Run], usage: Usage, now: float) -> Iterator[Run]:
    """Queued runs in the order in which they may take nodes; `usage` is read anew before each choice."""
    waiting: dict[str, list[tuple[int, float, str, Run]]] = {}
    for run in runs:
        entry = (-queue_priority(run, usage.limits, now), run.created_at, run.name, run)
        waiting.setdefault(run.project, []).append(entry)
    for entries in waiting.values():
        heapq.heapify(entries)
    while waiting:
        project = min(waiting, key=lambda p: (waiting[p][0][0], usage.share(p), waiting[p][0][1:3]))
        yield heapq.heappop(waiting[project])[3]
        if not waiting[project]:
            del waiting[project]


def quota_problem(run: Run, usage: Usage) -> str:
    """Why the project's quota keeps the run waiting; empty when it doesn't."""
    quota = usage.limits.get(run.project, ProjectLimits()).gpu_quota
    in_use = usage.gpus.get(run.project, 0)
    if not quota or in_use + run.spec.gpus <= quota:
        return ""
    return f"project {run.project!r} uses {in_use} of its {quota} GPU(s), the run needs {run.spec.gpus}"


@dataclass(slots=True)
class Queue:
    """Who holds back whom while runs are admitted: the first run that waits for nodes of each pool."""

    blocked: dict[str, str] = field(default_factory=dict)

    def problem(self, run: Run) -> str:
        """Why the run must not take nodes now; empty when it may."""
        pool = run.spec.pool
        ahead = self.blocked.get("") or (self.blocked.get(pool) if pool else next(iter(self.blocked.values()), ""))
        return f"{ahead} is ahead and waits for nodes" if ahead else ""

    def note(self, run: Run) -> None:
        """Takes note of a run that was looked at."""
        if waits_for_nodes(run):
            self.blocked.setdefault(run.spec.pool, run.name)


def waits_for_nodes(run: Run) -> bool:
    """Whether the run is queued for nodes that the cluster has, so that later ones must not overtake it."""
    return run.control.state is RunState.QUEUED and run.control.reason.code == NO_CAPACITY


def choose_victims(run: Run, priority: int, running: Sequence[Run], capacity: Capacity) -> tuple[Run, ...]:
    """Runs to requeue so that `run` fits: the fewest of the lowest priorities, the youngest first; empty: none helps.

    Only runs that were admitted with a lower priority than the waiting run's own, so that nobody is pushed out by a
    run that it had outwaited. Cost: O(log n) placements for n candidates, and a few more.
    """
    candidates = sorted(
        (other for other in running if other.control.admitted_priority < priority),
        key=lambda other: (other.control.admitted_priority, -(other.control.started_at or other.control.since)),
    )
    if not candidates or not _fits(run, capacity, candidates):
        return ()
    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(run, capacity, candidates[:middle]) else (middle + 1, high)
    chosen = candidates[:low]
    for victim in list(reversed(chosen))[:PRUNED_VICTIMS]:
        fewer = [other for other in chosen if other is not victim]
        if _fits(run, capacity, fewer):
            chosen = fewer
    return tuple(chosen)


def is_being_preempted(run: Run) -> bool:
    """Whether the run is already writing the checkpoint with which it makes room."""
    stopping = run.control.stopping
    return run.control.state in STEPPING_STATES and stopping is not None and stopping.purpose is StopPurpose.PREEMPT


def _fits(run: Run, capacity: Capacity, victims: Sequence[Run]) -> bool:
    free = dict(capacity.free)
    for victim in victims:
        for slot in victim.control.slots:
            if slot.node in free:
                free[slot.node] += victim.spec.gpus_per_pod
    leaving = {victim.name for victim in victims}
    spares = tuple(demand for demand in capacity.spares if demand.owner not in leaving)
    freed = replace(capacity, free=free, spares=spares)
    return place(freed, run.spec.pods, run.spec.gpus_per_pod, pool=run.spec.pool) is not None


def check_quota(limits: ProjectLimits, gpus: int, project: str) -> None:
    """Refuses a run that its project's quota can never admit."""
    if limits.gpu_quota and gpus > limits.gpu_quota:
        raise ResourceExhausted(
            f"the run needs {gpus} GPU(s), the quota of project {project!r} is {limits.gpu_quota}",
            reason="QUOTA_TOO_SMALL",
            metadata={"project": project, "gpu_quota": str(limits.gpu_quota), "gpus": str(gpus)},
            action="ask for fewer GPUs, or have the quota raised",
        )
