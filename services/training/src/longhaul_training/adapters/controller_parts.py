"""What the controller looks at and acts through."""

from __future__ import annotations

from dataclasses import dataclass

from longhaul_training.adapters.cluster_view import ClusterView
from longhaul_training.adapters.controller_metrics import ControllerMetrics
from longhaul_training.adapters.executor import Executor
from longhaul_training.adapters.hub import AgentHub
from longhaul_training.adapters.leadership import Leadership
from longhaul_training.adapters.node_health import NodeHealth
from longhaul_training.adapters.run_store import RunStore
from longhaul_training.adapters.task_store import TaskStore
from longhaul_training.adapters.token_sets import TokenSets

CHANGES_A_LOOK = 16
"""A record settles in a few changes; more in one look would be a defect, and the next look goes on."""


@dataclass(frozen=True, slots=True)
class Parts:
    """One of each."""

    cluster: ClusterView
    hub: AgentHub
    health: NodeHealth
    token_sets: TokenSets
    executor: Executor
    leadership: Leadership
    runs: RunStore
    tasks: TaskStore
    metrics: ControllerMetrics
