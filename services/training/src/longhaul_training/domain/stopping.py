"""Workers that write a checkpoint and stop, and what the run does then. Pure."""

from __future__ import annotations

from dataclasses import replace

from longhaul_training.domain import faults as fault_rules
from longhaul_training.domain.actions import Act, Change, Decision, RunEvent, StopAfterCheckpoint
from longhaul_training.domain.causes import Kind
from longhaul_training.domain.checkup_record import CheckupPurpose
from longhaul_training.domain.diagnosis import first_round
from longhaul_training.domain.faults import Fault
from longhaul_training.domain.observations import World
from longhaul_training.domain.spares import ready_spares
from longhaul_training.domain.states import Reason, RecoveryAction, Run, RunState, Slot, Stopping, StopPurpose
from longhaul_training.domain.transitions import move, recover, regroup_with, release, requeue

PURPOSES_THAT_LEAVE = frozenset({StopPurpose.PAUSE, StopPurpose.PREEMPT, StopPurpose.GROW, StopPurpose.DIAGNOSE})
# What these purposes want can be had after a repair too; giving the nodes back can't wait for one.
_LEFT = frozenset({Kind.DISRUPTION, Kind.PEER})
_CAN_WAIT = frozenset({StopPurpose.GROW, StopPurpose.DIAGNOSE})


def ask_to_stop(run: Run, stopping: Stopping) -> Act:
    """Asks every member's workers for a checkpoint and their end."""
    reason = stopping.purpose.value.lower()
    return Act(tuple(StopAfterCheckpoint(run.pod_name(slot), stopping.epoch, reason) for slot in run.members))


def stop_then(run: Run, world: World, faults: tuple[Fault, ...]) -> Decision:
    """Goes on as the purpose says once the workers have stopped."""
    stopping = run.control.stopping
    assert stopping is not None
    if fault_rules.stopped(run, world):
        # That the workers have left, and what their peers died of by it, is what was asked for.
        faults = tuple(f for f in faults if f.action is not RecoveryAction.PROCESS or f.cause.kind not in _LEFT)
    if faults and stopping.purpose in _CAN_WAIT:
        return Act() if fault_rules.unsettled(faults, world) else recover(run, world, faults)
    if not faults and not fault_rules.stopped(run, world):
        return ask_to_stop(run, stopping)
    match stopping.purpose:
        case StopPurpose.PREEMPT:
            by = world.preempted_by or "a run of higher priority"
            return requeue(run, world, Reason("PREEMPTED", f"made room for {by}; goes on from its last checkpoint"))
        case StopPurpose.GROW:
            return _grow(run, world)
        case StopPurpose.DIAGNOSE:
            return _diagnose(run, world)
        case _:
            reason = Reason("PAUSED_BY_USER", "paused; resumes from the last checkpoint")
            return move(run, world, RunState.PAUSED, reason, slots=release(run), stopping=None, backoff_until=0.0)


def growth(run: Run, world: World) -> tuple[Slot, ...]:
    """Spares that an elastic run which is short of nodes could take in now; empty: none, or it is whole."""
    ready = ready_spares(run, world)
    present = len(run.members)
    sizes = [size for size in (*run.spec.elastic_sizes, run.spec.pods) if present < size <= present + len(ready)]
    return ready[: max(sizes) - present] if sizes else ()


def _grow(run: Run, world: World) -> Change:
    joining = {slot.index for slot in growth(run, world)}
    slots = tuple(replace(slot, spare=slot.spare and slot.index not in joining) for slot in run.control.slots)
    members = sum(not slot.spare for slot in slots)
    text = f"goes on with {members} of {run.spec.pods} nodes"
    event = RunEvent("GROWN", "NODES_FREE", text, {"nodes": members, "wanted": run.spec.pods})
    return regroup_with(run, world, slots, Reason("GROWN", text), event)


def _diagnose(run: Run, world: World) -> Change:
    why = run.control.reason.message
    change = regroup_with(run, world, run.control.slots, Reason("DIAGNOSING", f"nodes are checked in pairs: {why}"))
    checkup = first_round(run, world, CheckupPurpose.DIAGNOSIS, why)
    control = replace(change.control, checkup=checkup, diagnosed_at=world.now)
    event = RunEvent("DIAGNOSIS_STARTED", "DIAGNOSIS", why, {"groups": len(checkup.groups)})
    return Change(control, (*change.events, event))
