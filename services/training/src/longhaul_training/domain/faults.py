"""From observations to faults: what is broken, where, and the cheapest repair. Pure and level-based.

A fault is a reading of the present, not an event: it is found again at each look until the record has moved on (a newer
epoch or incarnation), so that a controller that dies in between loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from longhaul_training.domain import causes
from longhaul_training.domain.causes import Cause, Kind
from longhaul_training.domain.observations import (
    AgentView,
    DrainView,
    NodeView,
    PodPhase,
    PodView,
    WorkerPhase,
    World,
)
from longhaul_training.domain.start_problems import start_problem
from longhaul_training.domain.states import STEPPING_STATES, RecoveryAction, Run, RunState, Slot


@dataclass(frozen=True, slots=True)
class Fault:
    """Something broken in a slot, or in the run as a whole (slot -1). `at`: when it happened, as far as known."""

    cause: Cause
    message: str
    action: RecoveryAction
    at: float
    slot: int = -1
    node: str = ""
    step: int = -1


_SEVERITY = {
    Kind.FATAL: 0,
    Kind.ANOMALY: 1,
    Kind.INFRASTRUCTURE: 2,
    Kind.DISRUPTION: 2,
    Kind.APPLICATION: 2,
    Kind.PEER: 9,
}
_BREADTH = {RecoveryAction.NODE: 0, RecoveryAction.POD: 1, RecoveryAction.ROLLBACK: 2, RecoveryAction.PROCESS: 3}


def find_faults(run: Run, world: World) -> tuple[Fault, ...]:
    """All faults of a run, the one to act on first: fatal causes, then the broadest repair, then the earliest."""
    faults = [*_slot_faults(run, world), *_drain_faults(run, world)]
    if run.control.checkup is None:
        faults += _worker_faults(run, world)
    for late in (_hang(run, world), _late_start(run, world)):
        if late is not None and not faults:
            faults.append(late)
    return tuple(sorted(faults, key=lambda f: (_SEVERITY[f.cause.kind], _BREADTH[f.action], f.at, f.slot)))


def unsettled(faults: tuple[Fault, ...], world: World) -> bool:
    """Whether only peers of something failed so far, so recently that what they died of may still be reported."""
    return bool(faults) and all(
        f.cause.kind is Kind.PEER and world.now - f.at < world.limits.peer_settle for f in faults
    )


def _slot_faults(run: Run, world: World) -> Iterator[Fault]:
    for slot in run.members:
        if not slot.node:
            continue
        fault = slot_fault(run, slot, world)
        if fault is not None:
            yield fault


def slot_fault(run: Run, slot: Slot, world: World) -> Fault | None:
    """What is wrong with a slot's pod, its node or its agent."""
    name = run.pod_name(slot)
    pod, node, agent = world.pods.get(name), world.nodes.get(slot.node), world.agents.get(name)
    if pod is None:
        if not slot.pod_uid:
            return _unplaceable(run, slot, node, world)
        return _fault(causes.POD_GONE, f"pod {name} was deleted by someone else", RecoveryAction.POD, slot, world.now)
    if pod.phase in (PodPhase.FAILED, PodPhase.SUCCEEDED):
        return _ended_pod(run, slot, pod, node, world)
    if pod.deleting:
        return _fault(causes.POD_EVICTED, f"pod {name} is being deleted", RecoveryAction.POD, slot, world.now)
    return _unreachable(run, slot, pod, node, agent, world)


def _unplaceable(run: Run, slot: Slot, node: NodeView | None, world: World) -> Fault | None:
    """A pod that was never created, on a node that no longer can take it."""
    if node is not None and node.ready and node.schedulable and node.drain is None:
        return None
    return _fault(
        causes.NODE_LOST, f"node {slot.node} can no longer take the pod", RecoveryAction.NODE, slot, world.now
    )


def _ended_pod(run: Run, slot: Slot, pod: PodView, node: NodeView | None, world: World) -> Fault | None:
    if pod.phase is PodPhase.SUCCEEDED and run.control.epoch == world.training.finished_epoch > 0:
        return None
    cause = causes.pod_cause(pod.reason, pod.exit_code, disrupted=pod.disrupted)
    node_usable = node is not None and node.ready and node.drain is None
    action = RecoveryAction.POD if node_usable else RecoveryAction.NODE
    if cause is causes.POD_FAILED and not node_usable:
        cause = causes.NODE_LOST
    said = pod.message or ("" if pod.exit_code is None else f"exit code {pod.exit_code}")
    text = f"pod {pod.name} on {slot.node} ended: {pod.reason or pod.phase.value}, {said}".rstrip(", ")
    return _fault(cause, text, action, slot, pod.finished_at or world.now)


def _unreachable(
    run: Run, slot: Slot, pod: PodView, node: NodeView | None, agent: AgentView | None, world: World
) -> Fault | None:
    limits = world.limits
    if world.blind:
        return None
    silence = agent.silent_seconds if agent is not None else 0.0
    away = node is None or not node.ready or pod.phase is PodPhase.UNKNOWN
    closed = agent is not None and not agent.connected and agent.closed_seconds >= limits.closed_stream
    if away and (closed or silence >= limits.lost_silence):
        text = f"node {slot.node} does not answer and the stream of pod {pod.name} is closed"
        return _fault(causes.NODE_LOST, text, RecoveryAction.NODE, slot, world.now - silence)
    if pod.phase is PodPhase.PENDING:
        return _not_starting(run, slot, pod, silence, world)
    if not slot.joined and pod.started_at is not None:
        # Before it starts a pod may wait for its image for as long as the gang does.
        silence = max(0.0, min(silence, world.now - pod.started_at))
    if silence >= (limits.lost_silence if slot.joined else limits.join):
        text = f"pod {pod.name} has been silent for {silence:.0f} s"
        return _fault(causes.AGENT_SILENT, text, RecoveryAction.POD, slot, world.now - silence)
    return None


def _not_starting(run: Run, slot: Slot, pod: PodView, waited: float, world: World) -> Fault | None:
    """A replacement that is stuck where it is goes elsewhere; a first gang is the business of `gang`."""
    problem = start_problem(pod)
    if problem is None or run.control.state is not RunState.RECOVERING or waited < world.limits.join:
        return None
    text = f"pod {pod.name} on {slot.node} does not start: {pod.message or pod.reason}"
    return _fault(causes.POD_NOT_STARTED, text, RecoveryAction.NODE, slot, world.now - waited)


def _worker_faults(run: Run, world: World) -> Iterator[Fault]:
    """Workers of the present epoch that ended, unless they were asked to or the run has finished."""
    epoch = run.control.epoch
    leaving = run.control.stopping is not None and not stopped(run, world)
    if world.training.finished_epoch == epoch:
        return
    by_pod = {run.pod_name(slot): slot for slot in run.members}
    for exit_ in world.training.exits:
        slot = by_pod.get(exit_.pod)
        if exit_.epoch != epoch or slot is None:
            continue
        cause = _suspected(world, epoch) or causes.worker_cause(exit_.exit_code, exit_.message)
        if leaving and cause.kind in (Kind.DISRUPTION, Kind.PEER):
            continue
        if cause is causes.WORKER_LEFT and world.now - exit_.at < world.limits.lost_silence:
            continue
        action = RecoveryAction.ROLLBACK if cause.kind is Kind.ANOMALY else RecoveryAction.PROCESS
        how = f"signal {-exit_.exit_code}" if exit_.exit_code < 0 else f"exit code {exit_.exit_code}"
        text = f"worker of rank {exit_.rank} on {slot.node} ended with {how}"
        text += f": {exit_.message.strip().splitlines()[-1]}" if exit_.message.strip() else ""
        yield _fault(cause, text, action, slot, exit_.at, exit_.step)


def _suspected(world: World, epoch: int) -> Cause | None:
    """What the workers of an epoch said before they ended: that one of their nodes computes wrongly."""
    said = world.training.suspicion
    if said is None or said.epoch != epoch:
        return None
    return causes.REPLICAS_DIFFER if said.cause == causes.REPLICAS_DIFFER.name else causes.RESULT_DIFFERS


def _drain_faults(run: Run, world: World) -> Iterator[Fault]:
    """Nodes to leave at once: nothing is being computed there, or it can't be trusted to write a checkpoint."""
    stepping = run.control.state in STEPPING_STATES
    for slot, drain in draining_slots(run, world):
        if stepping and drain.computes and run.control.stopping is None:
            continue
        if stepping and drain.computes and not stopped(run, world):
            continue
        text = f"node {slot.node} is to be left: {drain.cause}"
        yield _fault(causes.NODE_QUARANTINED, text, RecoveryAction.NODE, slot, drain.requested_at)


def draining_slots(run: Run, world: World) -> list[tuple[Slot, DrainView]]:
    """Members whose node gpuhealth wants free."""
    found = []
    for slot in run.members:
        node = world.nodes.get(slot.node)
        if node is not None and node.drain is not None:
            found.append((slot, node.drain))
    return found


def stopped(run: Run, world: World) -> bool:
    """Whether the workers that were asked to stop have all ended, or had all the time they get."""
    stopping = run.control.stopping
    if stopping is None:
        return False
    ended = {e.rank for e in world.training.exits if e.epoch == stopping.epoch == run.control.epoch}
    return len(ended) >= run.world_size or world.now - stopping.since >= world.limits.drain


def _late_start(run: Run, world: World) -> Fault | None:
    """A regrouping whose agents have all joined but whose workers do not get to step."""
    control = run.control
    if control.state not in (RunState.RENDEZVOUS, RunState.RECOVERING) or control.epoch != control.registered_epoch:
        return None
    if control.checkup is not None:
        return None
    waited = world.now - max(control.epoch_since, control.backoff_until)
    if waited < world.limits.start or not all(slot.joined for slot in run.members):
        return None
    text = f"epoch {control.epoch} has made no step after {waited:.0f} s"
    return Fault(causes.START_TIMEOUT, text, RecoveryAction.PROCESS, world.now)


def _hang(run: Run, world: World) -> Fault | None:
    """All agents speak but no worker that should be stepping has moved for too long."""
    if run.control.state not in STEPPING_STATES:
        return None
    threshold = max(world.limits.hang, world.limits.hang_steps * world.training.median_step_seconds)
    workers = [w for agent in world.agents.values() if agent.epoch == run.control.epoch for w in agent.workers]
    if len(workers) < run.world_size or any(w.silent_seconds < threshold for w in workers):
        return None
    if any(w.phase != WorkerPhase.STEPPING for w in workers):
        return None
    behind = min(workers, key=lambda w: (w.step, w.rank))
    text = f"no worker has moved for {threshold:.0f} s; rank {behind.rank} is last, at step {behind.step}"
    return Fault(causes.HANG, text, RecoveryAction.PROCESS, world.now - threshold, step=behind.step)


def suspicion(run: Run, world: World) -> str:
    """What makes a running run suspect, empty when all is well."""
    if run.control.state not in (RunState.RUNNING, RunState.SUSPECT):
        return ""
    for slot in run.members:
        agent = world.agents.get(run.pod_name(slot))
        if agent is None or agent.silent_seconds >= world.limits.suspect_silence:
            return f"pod {run.pod_name(slot)} on {slot.node} is silent"
        if not agent.connected and agent.closed_seconds >= world.limits.suspect_closed:
            return f"the stream of pod {run.pod_name(slot)} on {slot.node} is closed"
    return ""


def _fault(cause: Cause, message: str, action: RecoveryAction, slot: Slot, at: float, step: int = -1) -> Fault:
    return Fault(cause, message, action, at, slot.index, slot.node, step)
