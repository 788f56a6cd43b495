"""How the record of a run moves: one function a move, each with its events. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longhaul_training.domain import causes
from longhaul_training.domain.actions import Change, RunEvent
from longhaul_training.domain.budgets import backoff_seconds, escalate, exhausted, record_failure
from longhaul_training.domain.causes import Cause
from longhaul_training.domain.faults import Fault
from longhaul_training.domain.goodput import spend
from longhaul_training.domain.incidents import amend_last, open_incident, repair_times
from longhaul_training.domain.observations import World
from longhaul_training.domain.spares import ready_spares
from longhaul_training.domain.states import Incident, Reason, RecoveryAction, Run, RunState, Slot

_ORDER = (RecoveryAction.PROCESS, RecoveryAction.ROLLBACK, RecoveryAction.POD, RecoveryAction.NODE)
_CAUSES = [cause for cause in vars(causes).values() if isinstance(cause, Cause)]


def move(run: Run, world: World, state: RunState, reason: Reason, *events: RunEvent, **changes: Any) -> Change:
    """Moves to `state` and books the time spent in the old one; adds the event of the transition."""
    control = run.control
    moved = replace(
        control,
        state=state,
        reason=reason,
        since=world.now,
        time=spend(control.time, control.state, world.now),
        recovery=changes.pop("recovery", None),
        **changes,
    )
    data = {"from": control.state.value, "to": state.value, "epoch": moved.epoch, "step": world.training.step}
    return Change(moved, (RunEvent("STATE_CHANGED", reason.code, reason.message, data), *events))


def amend(run: Run, *events: RunEvent, **changes: Any) -> Change:
    """Changes the record without a transition."""
    return Change(replace(run.control, **changes), events)


def release(run: Run) -> tuple[Slot, ...]:
    """Slots without nodes; their next pods get new names."""
    return tuple(slot.renewed("") if slot.node else slot for slot in run.control.slots)


def end(run: Run, world: World, state: RunState, reason: Reason) -> Change:
    """Moves to a terminal state; the pods are deleted afterwards because they are no longer current."""
    incidents = run.control.incidents
    if run.control.open_incident is not None and state is RunState.SUCCEEDED:
        incidents = amend_last(incidents, recovered_at=world.now, restored_at=incidents[-1].restored_at or world.now)
    return move(
        run, world, state, reason,
        slots=release(run), stopping=None, ended_at=world.now, incidents=incidents, backoff_until=0.0, checkup=None,
    )  # fmt: skip


def requeue(run: Run, world: World, reason: Reason) -> Change:
    """Gives all nodes back and waits for its turn again, to go on from the last checkpoint."""
    return move(
        run,
        world,
        RunState.QUEUED,
        reason,
        slots=release(run),
        stopping=None,
        backoff_until=0.0,
        checkup=None,
    )


def regroup_with(run: Run, world: World, slots: tuple[Slot, ...], reason: Reason, *events: RunEvent) -> Change:
    """A new epoch of these slots that no fault asked for."""
    return move(
        run,
        world,
        RunState.RECOVERING,
        reason,
        *events,
        epoch=run.control.epoch + 1,
        epoch_since=world.now,
        slots=slots,
        stopping=None,
        checkup=None,
    )


def recover(run: Run, world: World, faults: tuple[Fault, ...]) -> Change:
    """Answers faults: fails the run where its budget says so, else regroups it in a new epoch."""
    control, fault = run.control, faults[0]
    failures = record_failure(control.failures, fault.cause, world.training.high_step)
    if exhausted(failures, fault.cause, _names_of_kind(fault.cause)):
        failed = replace(run, control=replace(control, failures=failures))
        return end(failed, world, RunState.FAILED, _failure_reason(fault, failures.count(fault.cause.name)))
    action = escalate(fault.action, failures)
    slots, broadest = _replace_slots(run, world, faults, action)
    epoch = control.epoch + 1
    incidents = open_incident(
        control.incidents, fault, broadest, epoch, max(world.training.step, fault.step), world.now
    )
    opened = RunEvent(
        "INCIDENT_DETECTED",
        fault.cause.name,
        fault.message,
        {"incident": incidents[-1].number, "action": broadest.value, "node": fault.node, "epoch": epoch},
    )
    return move(
        run,
        world,
        RunState.RECOVERING,
        Reason(fault.cause.name, fault.message),
        opened,
        recovery=broadest,
        epoch=epoch,
        epoch_since=world.now,
        slots=slots,
        stopping=None,
        checkup=None,
        failures=failures,
        incidents=incidents,
        backoff_until=world.now + backoff_seconds(failures, world.limits),
        avoided_nodes=tuple(sorted({f.node for f in faults if f.node and f.action is RecoveryAction.NODE})),
    )


def begin_stepping(run: Run, world: World) -> Change:
    """Moves to RUNNING once the workers of the epoch step; closes the restore stage of an open incident."""
    control = run.control
    incidents = control.incidents
    incident = control.open_incident
    if incident is not None:
        incidents = amend_last(incidents, resume_step=control.resume.step if control.resume else 0)
        incidents = _with_stacks(_restored(incidents, run, world), world)
    return move(
        run,
        world,
        RunState.RUNNING,
        Reason("STEPPING", f"workers of epoch {control.epoch} make steps"),
        incidents=incidents,
        started_at=control.started_at or world.now,
        avoided_nodes=(),
        requeues=0,
    )


def close_incident(run: Run, world: World) -> Change:
    """The step that the fault had interrupted is made again: the repair is over."""
    incidents = amend_last(_restored(run.control.incidents, run, world), recovered_at=world.now)
    incident = incidents[-1]
    times = repair_times(incident, world.now)
    data = {
        "incident": incident.number,
        "detect_seconds": round(times.detect, 3),
        "restart_seconds": round(times.restart, 3),
        "restore_seconds": round(times.restore, 3),
        "replay_seconds": round(times.replay, 3),
        "fault_step": incident.fault_step,
        "resume_step": incident.resume_step,
    }
    text = f"caught up at step {world.training.step}, {times.to_first_step + times.replay:.1f} s after the fault"
    return amend(run, RunEvent("INCIDENT_RECOVERED", incident.cause, text, data), incidents=incidents)


def _with_stacks(incidents: tuple[Incident, ...], world: World) -> tuple[Incident, ...]:
    """A hang's incident says where the ranks stood; their agents told it when they ended them."""
    last = incidents[-1]
    notes = [note.message for note in world.training.stacks if note.epoch == last.epoch - 1]
    if last.cause != causes.HANG.name or not notes or notes[0] in last.message:
        return incidents
    return amend_last(incidents, message="; ".join((last.message, *notes)))


def _restored(incidents: tuple[Incident, ...], run: Run, world: World) -> tuple[Incident, ...]:
    """When the workers of the epoch had started and restored: as rank 0 said, else as it was seen."""
    incident, reports = incidents[-1], world.training
    if reports.restored_epoch != run.control.epoch:
        seen = incident.restored_at or world.now
        return amend_last(incidents, started_at=incident.started_at or seen, restored_at=seen)
    restored_at = max(incident.detected_at, reports.restored_at)
    started_at = max(incident.detected_at, restored_at - reports.restore_seconds)
    return amend_last(incidents, started_at=started_at, restored_at=restored_at)


def _names_of_kind(cause: Cause) -> frozenset[str]:
    return frozenset(other.name for other in _CAUSES if other.kind is cause.kind)


def _failure_reason(fault: Fault, count: int) -> Reason:
    tries = f" (failure {count} of this cause)" if count > 1 else ""
    action = fault.cause.action or "see the run's events, then `longhaul runs retry`"
    return Reason(fault.cause.name, fault.message + tries, action)


def _replace_slots(
    run: Run, world: World, faults: tuple[Fault, ...], first_action: RecoveryAction
) -> tuple[tuple[Slot, ...], RecoveryAction]:
    """New incarnations for members whose pod or node is given up, and the broadest action taken.

    A warm spare takes the place of a member whose node is given up; that slot becomes the next spare.
    """
    wanted: dict[int, RecoveryAction] = {faults[0].slot: first_action}
    if faults[0].slot < 0 and first_action in (RecoveryAction.POD, RecoveryAction.NODE):
        # Nobody in particular is to blame, and restarting the workers did not help: all pods are made anew.
        wanted = {slot.index: RecoveryAction.POD for slot in run.members}
    for fault in faults[1:]:
        known = wanted.get(fault.slot, RecoveryAction.PROCESS)
        wanted[fault.slot] = max(known, fault.action, key=_ORDER.index)
    replaced = {slot.index: _replaced(slot, wanted.get(slot.index, RecoveryAction.PROCESS)) for slot in run.members}
    replaced |= {slot.index: slot for slot in run.spares}
    left = [index for index, slot in replaced.items() if not slot.spare and not slot.node]
    for index, spare in zip(left, ready_spares(run, world), strict=False):
        replaced[index] = replace(replaced[index], spare=True)
        replaced[spare.index] = replace(spare, spare=False)
    return tuple(replaced[index] for index in sorted(replaced)), max(wanted.values(), key=_ORDER.index)


def _replaced(slot: Slot, action: RecoveryAction) -> Slot:
    if action is RecoveryAction.NODE:
        return slot.renewed("")
    return slot.renewed(slot.node) if action is RecoveryAction.POD else slot
