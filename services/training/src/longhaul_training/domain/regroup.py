"""Regrouping: from placed slots to workers that step, the same way at the start and after each fault. Pure.

place slots -> register the epoch and create pods -> agents join -> preflight -> agents prepare the epoch (older
workers are dead) -> workers start -> they step. Each look takes the next step that the observations allow; nothing is
remembered beside the record.
"""

from __future__ import annotations

from dataclasses import replace

from longhaul_training.domain import causes
from longhaul_training.domain.actions import (
    Act,
    Action,
    Change,
    CreatePod,
    Decision,
    PrepareEpoch,
    RegisterEpoch,
    RunEvent,
    StartEpoch,
)
from longhaul_training.domain.faults import Fault
from longhaul_training.domain.incidents import amend_last
from longhaul_training.domain.observations import AgentView, PodPhase, WorkerPhase, World
from longhaul_training.domain.placement import place
from longhaul_training.domain.states import Reason, RecoveryAction, Run, RunState, Slot
from longhaul_training.domain.transitions import amend, begin_stepping, move, recover

_NOT_STEPPING = frozenset({WorkerPhase.STARTING.value, WorkerPhase.RESTORING.value, ""})


def regroup(run: Run, world: World) -> Decision:
    """The next step of a run in a grouping state without faults."""
    control = run.control
    if world.now < control.backoff_until:
        return Act()
    if any(not slot.node for slot in control.slots):
        return _place_missing(run, world)
    preparations: list[Action] = []
    if control.registered_epoch < control.epoch:
        preparations.append(RegisterEpoch(control.epoch, control.recovery is RecoveryAction.ROLLBACK))
    preparations += _missing_pods(run, world)
    if preparations:
        return Act(tuple(preparations))
    agents = _agents(run, world)
    if agents is None:
        return Act()
    if control.state is RunState.ADMITTED:
        return move(run, world, RunState.PREFLIGHT, Reason("AGENTS_JOINED", "all agents have joined"))
    if control.state is RunState.PREFLIGHT:
        return _preflight(run, world, agents)
    return _assemble(run, world, agents)


def _place_missing(run: Run, world: World) -> Decision:
    control = run.control
    missing = [slot for slot in control.slots if not slot.node]
    nodes = place(
        world.capacity.keeping_spares_of(run.name).in_group_of(slot.node for slot in control.slots if slot.node),
        len(missing),
        run.spec.gpus_per_pod,
        pool=run.spec.pool,
        avoid=control.avoided_nodes,
    )
    if nodes is None:
        text = f"no node has {run.spec.gpus_per_pod} free GPU(s) for {len(missing)} pod(s) to move to"
        reason = Reason("NO_SPARE", text, "add a node, or release a quarantined one")
        return Act() if control.reason == reason else amend(run, reason=reason)
    target = dict(zip((slot.index for slot in missing), nodes, strict=True))
    slots = tuple(replace(slot, node=target.get(slot.index, slot.node)) for slot in control.slots)
    return amend(run, slots=slots, reason=Reason("MOVED", f"pods move to {', '.join(nodes)}"))


def _missing_pods(run: Run, world: World) -> list[CreatePod]:
    """Pods to create now; a node on which an old pod of this run still ends is waited for."""
    current = run.current_pods()
    ending = {
        pod.node
        for pod in world.pods.values()
        if pod.name not in current and pod.phase not in (PodPhase.FAILED, PodPhase.SUCCEEDED)
    }
    return [
        CreatePod(name, slot.index, slot.incarnation, slot.node)
        for name, slot in current.items()
        if name not in world.pods and not slot.pod_uid and slot.node not in ending
    ]


def _agents(run: Run, world: World) -> list[tuple[Slot, AgentView]] | None:
    """The agents of all slots, by slot; None while one of them is not connected."""
    found = []
    for slot in run.control.slots:
        agent = world.agents.get(run.pod_name(slot))
        if agent is None or not agent.connected:
            return None
        found.append((slot, agent))
    return found


def _preflight(run: Run, world: World, agents: list[tuple[Slot, AgentView]]) -> Decision:
    for slot, agent in agents:
        if agent.problems:
            text = f"preflight on {slot.node}: {'; '.join(agent.problems)}"
            fault = Fault(causes.PREFLIGHT_FAILED, text, RecoveryAction.NODE, world.now, slot.index, slot.node)
            return recover(run, world, (fault,))
    return move(
        run,
        world,
        RunState.RENDEZVOUS,
        Reason("PREFLIGHT_PASSED", f"{len(agents)} node(s) passed"),
        epoch=run.control.epoch + 1,
        epoch_since=world.now,
    )


def _assemble(run: Run, world: World, agents: list[tuple[Slot, AgentView]]) -> Decision:
    """Prepare, start, step: agents that are behind are told again, those that are there are left alone."""
    control = run.control
    if _stepping(run, world, agents):
        return begin_stepping(run, world)
    started = [agent.epoch == control.epoch and bool(agent.workers) for _, agent in agents]
    if all(started):
        return _note_started(run, world, agents)
    address = agents[0][1].rendezvous_address if agents[0][1].ready_epoch == control.epoch else ""
    if started[0] and not address:
        return _begin_again(run, world)
    commands: list[Action] = [
        PrepareEpoch(agent.pod, control.epoch, bind_rendezvous=slot.index == 0)
        for (slot, agent), is_started in zip(agents, started, strict=True)
        if agent.ready_epoch < control.epoch and not is_started
    ]
    if not commands and address:
        commands += [
            StartEpoch(agent.pod, control.epoch, _ranks(run, slot), address)
            for (slot, agent), is_started in zip(agents, started, strict=True)
            if not is_started
        ]
    return Act(tuple(commands))


def _begin_again(run: Run, world: World) -> Decision:
    """Rank 0 was started by an earlier leader, others were not, and its address is gone with that leader."""
    if world.now - run.control.epoch_since < world.limits.reconnect:
        return Act()
    event = RunEvent("EPOCH_ABANDONED", "LEADER_CHANGED", f"epoch {run.control.epoch} was started in part")
    return amend(run, event, epoch=run.control.epoch + 1, epoch_since=world.now)


def _stepping(run: Run, world: World, agents: list[tuple[Slot, AgentView]]) -> bool:
    if world.training.step_epoch == run.control.epoch:
        return True
    workers = [w for _, agent in agents if agent.epoch == run.control.epoch for w in agent.workers]
    return len(workers) >= run.spec.world_size and all(w.phase not in _NOT_STEPPING for w in workers)


def _note_started(run: Run, world: World, agents: list[tuple[Slot, AgentView]]) -> Decision:
    incident = run.control.open_incident
    still_starting = any(w.phase in (WorkerPhase.STARTING, "") for _, agent in agents for w in agent.workers)
    if incident is None or incident.started_at is not None or still_starting:
        return Act()
    return Change(replace(run.control, incidents=amend_last(run.control.incidents, started_at=world.now)))


def _ranks(run: Run, slot: Slot) -> tuple[int, ...]:
    first = slot.index * run.spec.gpus_per_pod
    return tuple(range(first, first + run.spec.gpus_per_pod))
