"""In which order runs are admitted, and what a project may use. Pure.

Higher priority goes first, then the earlier request. A run that lacks nodes holds back those behind it, so that a
stream of small runs can't starve a large one; a run over its project's quota holds back nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from longhaul_core.errors import ResourceExhausted

from longhaul_training.domain.states import Run, RunState


@dataclass(frozen=True, slots=True)
class ProjectLimits:
    """What a project may use; a quota of 0 is no limit."""

    gpu_quota: int = 0
    priority: int = 0


def admission_order(runs: Iterable[Run], projects: Mapping[str, ProjectLimits]) -> list[Run]:
    """Runs in the order in which they are looked at: those that hold GPUs first, since they may need a spare."""

    def key(run: Run) -> tuple[int, int, float, str]:
        limits = projects.get(run.project, ProjectLimits())
        holds = 0 if run.control.state.holds_gpus else 1
        return holds, -(limits.priority + run.spec.priority), run.created_at, run.name

    return sorted(runs, key=key)


def quota_problem(run: Run, projects: Mapping[str, ProjectLimits], used: Mapping[str, int]) -> str:
    """Why the project's quota keeps the run waiting; empty when it doesn't."""
    quota = projects.get(run.project, ProjectLimits()).gpu_quota
    in_use = used.get(run.project, 0)
    if not quota or in_use + run.spec.gpus <= quota:
        return ""
    return f"project {run.project!r} uses {in_use} of its {quota} GPU(s), the run needs {run.spec.gpus}"


def waits_for_nodes(run: Run) -> bool:
    """Whether the run is queued for nodes, so that later ones must not overtake it."""
    return run.control.state is RunState.QUEUED and run.control.reason.code == "NO_CAPACITY"


def check_quota(limits: ProjectLimits, gpus: int, project: str) -> None:
    """Refuses a run that its project's quota can never admit."""
    if limits.gpu_quota and gpus > limits.gpu_quota:
        raise ResourceExhausted(
            f"the run needs {gpus} GPU(s), the quota of project {project!r} is {limits.gpu_quota}",
            reason="QUOTA_TOO_SMALL",
            metadata={"project": project, "gpu_quota": str(limits.gpu_quota), "gpus": str(gpus)},
            action="ask for fewer GPUs, or have the quota raised",
        )
