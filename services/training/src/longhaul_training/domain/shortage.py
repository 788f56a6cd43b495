"""Why a run cannot be placed although it is its turn: which resource is missing and how much of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from longhaul_training.domain.admission import NO_CAPACITY
from longhaul_training.domain.placement import Capacity, place
from longhaul_training.domain.states import Reason, RunSpec

CLUSTER_TOO_SMALL = "CLUSTER_TOO_SMALL"
QUOTA = "QUOTA_IN_USE"
BEHIND = "BEHIND_IN_QUEUE"


@dataclass(frozen=True, slots=True)
class Missing:
    """A resource, how much of it is needed and how much there is."""

    resource: str
    needed: int
    available: int
    unit: str
    message: str


def shortage(spec: RunSpec, capacity: Capacity) -> Reason:
    """What is missing, the most lasting first; only `NO_CAPACITY` makes later runs wait behind this one."""
    pools = sorted(set(capacity.pools.values()) - {""})
    if spec.pool and spec.pool not in pools:
        there = f"nodes are in {', '.join(pools)}" if pools else "no node is in any pool"
        action = "name one of these in resources.pool, or add ready nodes to the pool"
        return Reason("POOL_UNKNOWN", f"no ready node is in pool {spec.pool!r}; {there}", action)
    if capacity.allowed is not None and not capacity.allowed & capacity.free.keys():
        wanted = ", ".join(f"{key}={value}" for key, value in spec.node_selector) or "any"
        text = f"no ready node carries the labels {wanted} of resources.pod.node_selector"
        return Reason("NO_MATCHING_NODE", text, "correct the selector, or label nodes")
    need = f"needs {spec.pods} node(s) with {spec.gpus_per_pod} free GPU(s) each"
    empty = replace(capacity, free=capacity.whole, spares=())
    if capacity.whole and place(empty, spec.pods, spec.gpus_per_pod, pool=spec.pool) is None:
        fitting = fitting_pods(empty, spec)
        text = f"{need}; all usable nodes together, if they were free, would hold {fitting} such pod(s)"
        return Reason(CLUSTER_TOO_SMALL, text, "add nodes, release quarantined ones, or ask for fewer", fitting)
    available = fitting_pods(capacity, spec)
    anywhere = replace(capacity, groups=None)
    if capacity.groups is not None and place(anywhere, spec.pods, spec.gpus_per_pod, pool=spec.pool) is not None:
        text = f"{need} of one {spec.topology_label}; there are enough, but not under one value of that label"
        return Reason(NO_CAPACITY, text, "wait, or leave out resources.pod.topology_label", available)
    return Reason(NO_CAPACITY, f"{need}; {capacity.total_free} GPU(s) are free", available=available)


def fitting_pods(capacity: Capacity, spec: RunSpec) -> int:
    """How many of the run's pods would fit now, each alone."""
    return sum(
        free // spec.gpus_per_pod
        for node, free in capacity.free.items()
        if free > 0
        and (not spec.pool or capacity.pools.get(node) == spec.pool)
        and (capacity.allowed is None or node in capacity.allowed)
    )
