"""Keeps a run's spare pods as many and as good as they should be, without touching its members. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from longhaul_training.domain.accused import shunned
from longhaul_training.domain.actions import Change, RunEvent
from longhaul_training.domain.faults import slot_fault
from longhaul_training.domain.observations import World
from longhaul_training.domain.placement import place
from longhaul_training.domain.spares import wanted_spares
from longhaul_training.domain.states import STEPPING_STATES, Run, RunState, Slot
from longhaul_training.domain.transitions import amend


def tend_spares(run: Run, world: World) -> Change | None:
    """Gives up lost spares, places missing ones, lets go of those no longer wanted; None when all is well."""
    lost = [slot for slot in run.spares if slot.node and _is_lost(run, slot, world)]
    if lost:
        text = f"spare pod on {', '.join(slot.node for slot in lost)} is lost"
        return _put(run, [slot.renewed("") for slot in lost], RunEvent("SPARE_LOST", "SPARE_LOST", text))
    placed = [slot for slot in run.spares if slot.node]
    surplus = placed[max(0, wanted_spares(run)) :]
    if surplus and run.control.state in STEPPING_STATES:
        return _put(run, [slot.renewed("") for slot in surplus])
    if run.control.state is not RunState.RUNNING or len(placed) >= wanted_spares(run):
        return None
    return _place_one(run, world)


def _place_one(run: Run, world: World) -> Change | None:
    # A spare on a node that is known to be bad would be none.
    capacity = world.capacity.keeping_spares_of(run.name).excluding(shunned(run, world))
    if capacity.total_free < run.spec.gpus_per_pod:
        return None
    nodes = place(capacity, 1, run.spec.gpus_per_pod, pool=run.spec.pool)
    if nodes is None:
        return None
    free = [slot for slot in run.spares if not slot.node]
    index = max((slot.index for slot in run.control.slots), default=-1) + 1
    slot = replace(free[0] if free else Slot(index), node=nodes[0], spare=True)
    return _put(run, [slot], RunEvent("SPARE_PLACED", "", f"a spare pod is placed on {nodes[0]}"))


def _put(run: Run, changed: Sequence[Slot], *events: RunEvent) -> Change:
    by_index = {slot.index: slot for slot in (*run.control.slots, *changed)}
    return amend(run, *events, slots=tuple(by_index[index] for index in sorted(by_index)))


def _is_lost(run: Run, slot: Slot, world: World) -> bool:
    node, agent = world.nodes.get(slot.node), world.agents.get(run.pod_name(slot))
    leaving = (node is not None and node.drain is not None) or slot.node in shunned(run, world)
    return leaving or (agent is not None and bool(agent.problems)) or slot_fault(run, slot, world) is not None
