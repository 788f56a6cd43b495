"""Warm spares: pods that have joined and passed their checks, and wait without ranks. Pure.

How many: a number, or as many as suffice 99 % of the time when nodes fail independently. Failed nodes that are away at
once are Poisson with mean nodes × failures a day × days away (M/G/∞: only the mean repair time matters).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from longhaul_training.domain.accused import shunned
from longhaul_training.domain.actions import CreatePod
from longhaul_training.domain.observations import PodPhase, World
from longhaul_training.domain.states import Run, Slot

QUANTILE = 0.99
DEFAULT_REPAIR_HOURS = 24.0


def sized_spares(nodes: int, failures_per_day: float, repair_hours: float) -> int:
    """The fewest spares that cover the failed nodes 99 % of the time."""
    mean = nodes * failures_per_day * (repair_hours or DEFAULT_REPAIR_HOURS) / 24.0
    if mean <= 0.0:
        return 0
    probability, cumulative, spares = math.exp(-mean), math.exp(-mean), 0
    while cumulative < QUANTILE and probability > 0.0:
        spares += 1
        probability *= mean / spares
        cumulative += probability
    return spares


def wanted_spares(run: Run) -> int:
    """Spare pods to keep: those asked for, and those for members that an elastic run is short of."""
    return run.spec.spares + max(0, run.spec.pods - len(run.members))


def ready_spares(run: Run, world: World) -> tuple[Slot, ...]:
    """Spare slots whose pod could take ranks at once."""
    return tuple(slot for slot in run.spares if slot.joined and _is_ready(run, slot, world))


def missing_pods(run: Run, world: World, slots: Iterable[Slot]) -> list[CreatePod]:
    """Pods to create now; a node on which an old pod of this run still ends is waited for."""
    current = run.current_pods()
    ending = {
        pod.node
        for pod in world.pods.values()
        if pod.name not in current and pod.phase not in (PodPhase.FAILED, PodPhase.SUCCEEDED)
    }
    return [
        CreatePod(run.pod_name(slot), slot.index, slot.incarnation, slot.node)
        for slot in slots
        if slot.node and run.pod_name(slot) not in world.pods and not slot.pod_uid and slot.node not in ending
    ]


def _is_ready(run: Run, slot: Slot, world: World) -> bool:
    node, agent = world.nodes.get(slot.node), world.agents.get(run.pod_name(slot))
    return (
        node is not None
        and node.ready
        and node.schedulable
        and node.drain is None
        and slot.node not in shunned(run, world)
        and agent is not None
        and agent.connected
        and not agent.problems
    )
