"""Why a run cannot be placed although it is its turn. Pure."""

from __future__ import annotations

from longhaul_training.domain.placement import Capacity, place
from longhaul_training.domain.states import Reason, RunSpec


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
    anywhere = Capacity(capacity.free, capacity.pools, capacity.spares, capacity.allowed)
    if capacity.groups is not None and place(anywhere, spec.pods, spec.gpus_per_pod, pool=spec.pool) is not None:
        text = f"{need} of one {spec.topology_label}; there are enough, but not under one value of that label"
        return Reason("NO_CAPACITY", text, "wait, or leave out resources.pod.topology_label")
    return Reason("NO_CAPACITY", f"{need}; {capacity.total_free} GPU(s) are free")
