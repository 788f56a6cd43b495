"""The controller's decision about one run: record and observations in, a change of the record or actions out. Pure.

Either the record moves (and is written before anything is done about it), or actions bring the world nearer to the
record. A crash between the two loses nothing: the next look finds the same record and the same world.
"""

from __future__ import annotations

from dataclasses import replace

from longhaul_training.domain import faults as fault_rules
from longhaul_training.domain.accused import shunned, still_accused
from longhaul_training.domain.actions import (
    AccuseNode,
    Act,
    Action,
    Change,
    Decision,
    DeletePod,
    RunEvent,
)
from longhaul_training.domain.gang import assemble
from longhaul_training.domain.observations import InputStatus, PodPhase, World
from longhaul_training.domain.placement import place
from longhaul_training.domain.regroup import regroup
from longhaul_training.domain.shortage import BEHIND, QUOTA, shortage
from longhaul_training.domain.spare_keeping import tend_spares
from longhaul_training.domain.spares import missing_pods
from longhaul_training.domain.states import (
    GROUPING_STATES,
    FailureRecord,
    PinnedInput,
    Reason,
    Run,
    RunState,
    Slot,
    Stopping,
    StopPurpose,
    Wish,
)
from longhaul_training.domain.stopping import PURPOSES_THAT_LEAVE, ask_to_stop, stop_then
from longhaul_training.domain.transitions import amend, end, move, recover, release, requeue
from longhaul_training.domain.watching import watch_steps

STALE_POD_GRACE_SECONDS = 5.0


def decide(run: Run, world: World) -> Decision:
    """One step for one run. Deletions of pods that are no longer wanted come before all other actions."""
    decision = _decide(run, world)
    if isinstance(decision, Change):
        return decision
    tended = tend_spares(run, world) if run.control.state.holds_gpus and run.desired.wish is Wish.RUN else None
    if tended is not None:
        return tended
    accusations = (AccuseNode(a.node, a.message, a.key) for a in run.control.accusations)
    spares = missing_pods(run, world, run.spares) if run.control.state.holds_gpus else ()
    return Act((*_stale_pods(run, world), *spares, *decision.actions, *accusations))


def _decide(run: Run, world: World) -> Decision:
    control = run.control
    if control.state.terminal:
        return _ended(run, world)
    if run.desired.wish is Wish.CANCEL:
        return _cancel(run, world)
    adopted = _adopt(run, world)
    if adopted is not None:
        return adopted
    if control.state is RunState.PAUSED:
        return _paused(run, world)
    if control.state in (RunState.QUEUED, RunState.WAITING_FOR_INPUTS):
        return _waiting(run, world)
    if 0 < control.epoch == world.training.finished_epoch:
        text = f"all steps made, the last at {world.training.finished_step}"
        return end(run, world, RunState.SUCCEEDED, Reason("FINISHED", text))
    if control.state in GROUPING_STATES:
        return _grouping(run, world)
    return _stepping(run, world)


def _ended(run: Run, world: World) -> Decision:
    if run.control.state is not RunState.FAILED or run.desired.attempt <= run.control.attempt:
        return Act()
    reason = Reason("RETRIED", f"attempt {run.desired.attempt}")
    return move(
        run, world, RunState.QUEUED, reason, attempt=run.desired.attempt, failures=FailureRecord(), ended_at=None
    )


def _cancel(run: Run, world: World) -> Decision:
    """Deletes all pods; ends when they are gone, or can't be reached, or had all the time they get."""
    stopping = run.control.stopping
    if stopping is None or stopping.purpose is not StopPurpose.CANCEL:
        asked = Stopping(StopPurpose.CANCEL, run.control.epoch, world.now)
        event = RunEvent("CANCEL_ACCEPTED", "CANCELLED_BY_USER", "the run is being cancelled")
        return amend(run, event, stopping=asked, reason=Reason("CANCELLING", "pods are being stopped"))
    alive = [
        pod
        for pod in world.pods.values()
        if pod.phase in (PodPhase.PENDING, PodPhase.RUNNING) and _answers(pod.node, world)
    ]
    if alive and world.now - stopping.since < world.limits.cancel:
        return Act(tuple(_delete(pod.name, pod.uid) for pod in alive if not pod.deleting))
    return end(run, world, RunState.CANCELLED, Reason("CANCELLED_BY_USER", "cancelled"))


def _adopt(run: Run, world: World) -> Change | None:
    """Notes which pods exist, which agents have joined and which accused nodes were taken out, all at once."""
    slots = tuple(_adopted(run, slot, world) for slot in run.control.slots)
    accused = still_accused(run, world) if run.control.accused else ()
    if slots == run.control.slots and accused == run.control.accused:
        return None
    return amend(run, slots=slots, accused=accused)


def _adopted(run: Run, slot: Slot, world: World) -> Slot:
    if not slot.node or slot.joined:
        return slot
    name = run.pod_name(slot)
    pod, agent = world.pods.get(name), world.agents.get(name)
    uid = slot.pod_uid or (pod.uid if pod is not None else "")
    return replace(slot, pod_uid=uid, joined=agent is not None and agent.connected)


def _paused(run: Run, world: World) -> Decision:
    if run.desired.wish is Wish.PAUSE:
        return Act()
    return move(run, world, RunState.QUEUED, Reason("RESUMED_BY_USER", "resumed"))


def _waiting(run: Run, world: World) -> Decision:
    control = run.control
    if run.desired.wish is Wish.PAUSE:
        return move(run, world, RunState.PAUSED, Reason("PAUSED_BY_USER", "paused"))
    if control.pinned is None:
        return _wait_for_inputs(run, world)
    if control.state is RunState.WAITING_FOR_INPUTS:
        return move(run, world, RunState.QUEUED, Reason("INPUTS_READY", f"{run.spec.token_set} is there"))
    return _admit(run, world)


def _wait_for_inputs(run: Run, world: World) -> Decision:
    inputs = world.inputs
    if inputs.status is InputStatus.READY:
        return amend(run, pinned=PinnedInput(run.spec.token_set, inputs.manifest_key, inputs.digest))
    if inputs.status is InputStatus.FAILED:
        reason = Reason("INPUT_FAILED", inputs.message, "repair the input, then `longhaul runs retry`")
        return end(run, world, RunState.FAILED, reason)
    if inputs.status is InputStatus.MISSING and run.control.state is not RunState.WAITING_FOR_INPUTS:
        return move(run, world, RunState.WAITING_FOR_INPUTS, Reason("INPUT_MISSING", inputs.message))
    return Act()


def _admit(run: Run, world: World) -> Decision:
    spec, control = run.spec, run.control
    if world.now < control.backoff_until:
        return Act()
    nodes = None
    if not world.queue_problem:
        avoided = shunned(run, world).union(control.avoided_nodes)
        nodes = place(world.capacity, spec.pods, spec.gpus_per_pod, pool=spec.pool, avoid=avoided)
    if nodes is None:
        reason = _waiting_reason(run, world)
        return Act() if run.control.reason == reason else amend(run, reason=reason)
    slots = run.control.slots + tuple(Slot(index) for index in range(len(run.control.slots), spec.pods))
    placed = tuple(
        replace(slot, node=nodes[slot.index] if slot.index < spec.pods else "", spare=slot.index >= spec.pods)
        for slot in slots
    )
    return move(
        run,
        world,
        RunState.ADMITTED,
        Reason("ADMITTED", f"placed on {', '.join(nodes)}"),
        slots=placed,
        admissions=control.admissions + 1,
        admitted_priority=world.admission_priority,
    )


def _waiting_reason(run: Run, world: World) -> Reason:
    """Which resource keeps a queued run waiting."""
    if not world.queue_problem:
        return shortage(run.spec, world.capacity)
    code = QUOTA if world.queue_problem.startswith("project ") else BEHIND
    action = "wait, cancel another run of the project, or have the quota raised" if code == QUOTA else ""
    return Reason(code, world.queue_problem, action)


def _grouping(run: Run, world: World) -> Decision:
    if run.desired.wish is Wish.PAUSE:
        reason = Reason("PAUSED_BY_USER", "paused; resumes from the last checkpoint")
        return move(
            run, world, RunState.PAUSED, reason, slots=release(run), stopping=None, backoff_until=0.0, checkup=None
        )
    if world.preempted_by:
        return requeue(run, world, Reason("PREEMPTED", f"made room for {world.preempted_by}"))
    faults = fault_rules.find_faults(run, world)
    if fault_rules.unsettled(faults, world):
        return Act()
    if faults:
        return recover(run, world, faults)
    return assemble(run, world) or regroup(run, world)


def _stepping(run: Run, world: World) -> Decision:
    control = run.control
    faults = fault_rules.find_faults(run, world)
    if control.stopping is not None and control.stopping.purpose in PURPOSES_THAT_LEAVE:
        return stop_then(run, world, faults)
    if faults:
        return Act() if fault_rules.unsettled(faults, world) else recover(run, world, faults)
    if control.stopping is not None:
        # A drain that was withdrawn while it had no effect is forgotten.
        expired = fault_rules.stopped(run, world)
        return amend(run, stopping=None) if expired else ask_to_stop(run, control.stopping)
    if run.desired.wish is Wish.PAUSE:
        return amend(run, stopping=Stopping(StopPurpose.PAUSE, control.epoch, world.now))
    if world.preempted_by:
        text = f"a checkpoint is written to make room for {world.preempted_by}"
        event = RunEvent("PREEMPTION_STARTED", "PREEMPTED", text, {"for": world.preempted_by})
        return amend(run, event, stopping=Stopping(StopPurpose.PREEMPT, control.epoch, world.now))
    draining = fault_rules.draining_slots(run, world)
    if draining:
        slot, drain = draining[0]
        event = RunEvent("DRAIN_STARTED", drain.cause, f"a checkpoint is written before {slot.node} is left")
        return amend(run, event, stopping=Stopping(StopPurpose.DRAIN, control.epoch, world.now))
    return watch_steps(run, world)


def _stale_pods(run: Run, world: World) -> tuple[Action, ...]:
    current = run.current_pods()
    return tuple(
        _delete(pod.name, pod.uid) for pod in world.pods.values() if pod.name not in current and not pod.deleting
    )


def _delete(pod: str, uid: str) -> DeletePod:
    return DeletePod(pod, uid, STALE_POD_GRACE_SECONDS)


def _answers(node: str, world: World) -> bool:
    view = world.nodes.get(node)
    return view is not None and view.ready
