"""What one pass of the controller sees of cluster, projects and claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from longhaul_core.db import ResourceRow

from longhaul_training.adapters import project_store
from longhaul_training.adapters.cluster_view import ClusterSnapshot
from longhaul_training.adapters.task_store import StoredTask
from longhaul_training.domain.accused import accused_nodes
from longhaul_training.domain.actions import DeletePod
from longhaul_training.domain.observations import NodeView
from longhaul_training.domain.placement import Capacity, Claim, SpareDemand, capacity_of
from longhaul_training.domain.states import Run, RunSpec


@dataclass(slots=True)
class Look:
    """What one pass over everything sees at `now`; claims grow as it decides.

    `accused_seconds`: how long a run keeps away from a node that it accused.
    """

    cluster: ClusterSnapshot
    nodes: Mapping[str, NodeView]
    projects: Mapping[str, ResourceRow]
    created: Sequence[Claim]
    now: float
    accused_seconds: float
    placed: dict[str, list[Claim]] = field(default_factory=dict)
    spares: dict[str, SpareDemand] = field(default_factory=dict)
    preempted: dict[str, str] = field(default_factory=dict)
    namespaces: Mapping[str, str] = field(default_factory=dict)
    _capacities: dict[object, Capacity] = field(default_factory=dict)

    def claims(self) -> list[Claim]:
        """Every GPU that is taken: in the cluster, being taken there right now, or promised in the database."""
        return [*self.cluster.claims(), *self.created, *(claim for claims in self.placed.values() for claim in claims)]

    def capacity(self, spec: RunSpec | None = None) -> Capacity:
        """What can still be placed, for a run of that specification where it is given.

        Counted again only after something was placed or given back, once for each set of tolerations.
        """
        key = spec.tolerations if spec is not None else None
        capacity = self._capacities.get(key)
        if capacity is None:
            capacity = capacity_of(self.cluster.capacities(spec), self.claims(), self.spares.values())
            self._capacities[key] = capacity
        return capacity if spec is None else self.cluster.restricted(capacity, spec)

    def free(self) -> Mapping[str, int]:
        """Free GPUs of every node that answers."""
        return capacity_of(self.cluster.ready_capacities(), self.claims()).free

    def note_run(self, run: Run, *, until_written: Run | None = None) -> None:
        """Books what a run holds now; spares that have a pod are claims like any other.

        `until_written` is the run as the database still has it: what it holds there is nobody else's before the
        change is written.
        """
        pods = run.current_pods()
        if until_written is not None:
            pods = until_written.current_pods() | pods
        claims = [Claim(pod, slot.node, run.spec.gpus_per_pod) for pod, slot in pods.items()]
        lacking = run.spec.spares - sum(1 for slot in run.spares if slot.node)
        demand = self._demand(run, lacking) if claims and lacking > 0 else None
        if claims == self.placed.get(run.uid) and demand == self.spares.get(run.uid):
            return
        self._capacities.clear()
        self.placed[run.uid] = claims
        if demand is not None:
            self.spares[run.uid] = demand
        else:
            self.spares.pop(run.uid, None)

    def _demand(self, run: Run, spares: int) -> SpareDemand:
        shunned = accused_nodes(run.control, self.now, self.accused_seconds)
        return SpareDemand(run.name, spares, run.spec.gpus_per_pod, shunned)

    def note_task(self, stored: StoredTask) -> None:
        """Books what a task holds now."""
        task = stored.task
        held = [Claim(task.pod_name, task.control.node, task.spec.gpus)] if task.holds_gpus else []
        if held != self.placed.get(task.uid):
            self._capacities.clear()
        self.placed[task.uid] = held

    def namespace(self, project: str, action: object = None) -> str:
        """Namespace of a project's pods; a pod that is to be deleted is where it is, whatever the project says now."""
        if isinstance(action, DeletePod) and action.uid in self.namespaces:
            return self.namespaces[action.uid]
        row = self.projects.get(project)
        return project_store.namespace_of(row) if row is not None else project
