"""Regrouping: from placed slots to workers that step, the same way at the start and after each fault. Pure.

place slots -> register the epoch and create pods -> agents join -> preflight -> agents prepare the epoch (older
workers are dead) -> workers start -> they step. Each look takes the next step that the observations allow; nothing is
remembered beside the record.
"""

from __future__ import annotations

from dataclasses import replace

from longhaul_training.domain import causes
from longhaul_training.domain.accused import accuse, shunned
from longhaul_training.domain.actions import (
    Act,
    Action,
    Change,
    Decision,
    PrepareEpoch,
    RegisterEpoch,
    RunEvent,
    StartEpoch,
)
from longhaul_training.domain.checkup_record import Accusation, Finding
from longhaul_training.domain.checkups import merge_checklist
from longhaul_training.domain.diagnosis import begin_preflight, check_nodes, diagnose_doubt, doubted
from longhaul_training.domain.faults import Fault
from longhaul_training.domain.incidents import amend_last
from longhaul_training.domain.observations import AgentView, WorkerPhase, World
from longhaul_training.domain.placement import place
from longhaul_training.domain.spares import missing_pods
from longhaul_training.domain.states import Reason, RecoveryAction, Run, RunState, Slot
from longhaul_training.domain.transitions import amend, begin_stepping, move, recover

_NOT_STEPPING = frozenset({WorkerPhase.STARTING.value, WorkerPhase.RESTORING.value, ""})


def regroup(run: Run, world: World) -> Decision:
    """The next step of a run in a grouping state without faults."""
    control = run.control
    if world.now < control.backoff_until:
        return Act()
    if any(not slot.node for slot in run.members):
        return _place_missing(run, world)
    if control.state is RunState.RECOVERING and control.checkup is None and doubted(run, world):
        return diagnose_doubt(run, world)
    preparations: list[Action] = []
    if control.registered_epoch < control.epoch:
        preparations.append(RegisterEpoch(control.epoch, control.recovery is RecoveryAction.ROLLBACK))
    preparations += missing_pods(run, world, run.members)
    if preparations:
        return Act(tuple(preparations))
    agents = _agents(run, world)
    if agents is None:
        return Act()
    refused = _refuse(run, world, agents)
    if refused is not None:
        return refused
    if control.checkup is not None:
        return check_nodes(run, world)
    if control.preflight_again and control.state is RunState.RECOVERING:
        return begin_preflight(run, world, "again", checklist=_with_checks(run, agents))
    if control.state is RunState.ADMITTED:
        return move(run, world, RunState.PREFLIGHT, Reason("AGENTS_JOINED", "all agents have joined"))
    if control.state is RunState.PREFLIGHT:
        return _preflight(run, world, agents)
    return _assemble(run, world, agents)


def _place_missing(run: Run, world: World) -> Decision:
    control = run.control
    missing = [slot for slot in run.members if not slot.node]
    nodes = place(
        world.capacity.keeping_spares_of(run.name).in_group_of(slot.node for slot in control.slots if slot.node),
        len(missing),
        run.spec.gpus_per_pod,
        pool=run.spec.pool,
        avoid=shunned(run, world).union(control.avoided_nodes),
    )
    if nodes is None:
        fewer = _shrink(run, world)
        if fewer is not None:
            return fewer
        text = f"no node has {run.spec.gpus_per_pod} free GPU(s) for {len(missing)} pod(s) to move to"
        reason = Reason("NO_SPARE", text, "add a node, or release a quarantined one")
        return Act() if control.reason == reason else amend(run, reason=reason)
    target = dict(zip((slot.index for slot in missing), nodes, strict=True))
    slots = tuple(replace(slot, node=target.get(slot.index, slot.node)) for slot in control.slots)
    return amend(run, slots=slots, reason=Reason("MOVED", f"pods move to {', '.join(nodes)}"))


def _shrink(run: Run, world: World) -> Change | None:
    """Goes on with fewer data-parallel replicas where the run may and no replacement came in time.

    The global batch stays what it is: each rank accumulates more.
    """
    placed = [slot for slot in run.members if slot.node]
    sizes = [size for size in run.spec.elastic_sizes if size <= len(placed)]
    if not sizes or world.now - run.control.epoch_since < world.limits.elastic_patience:
        return None
    kept = {slot.index for slot in placed[: max(sizes)]}
    slots = tuple(replace(slot, spare=slot.index not in kept) for slot in run.control.slots)
    text = f"goes on with {max(sizes)} of {run.spec.pods} nodes until others are free; the global batch stays"
    event = RunEvent("SHRUNK", "NO_SPARE", text, {"nodes": max(sizes), "wanted": run.spec.pods})
    return amend(run, event, slots=slots, reason=Reason("SHRUNK", text))


def _agents(run: Run, world: World) -> list[tuple[Slot, AgentView]] | None:
    """The agents of all slots, by slot; None while one of them is not connected."""
    found = []
    for slot in run.members:
        agent = world.agents.get(run.pod_name(slot))
        if agent is None or not agent.connected:
            return None
        found.append((slot, agent))
    return found


def _refuse(run: Run, world: World, agents: list[tuple[Slot, AgentView]]) -> Decision | None:
    """Replaces nodes whose agents found them unfit as they joined; gpuhealth learns of them."""
    unfit = [(slot, agent) for slot, agent in agents if agent.problems]
    if not unfit:
        return None
    accusations, faults = [], []
    for slot, agent in unfit:
        text = f"preflight on {slot.node}: {'; '.join(agent.problems)}"
        accusations.append(Accusation(slot.node, text, f"{run.id}-{run.control.epoch}-{slot.node}"))
        faults.append(Fault(causes.PREFLIGHT_FAILED, text, RecoveryAction.NODE, world.now, slot.index, slot.node))
    control = replace(accuse(run.control, world.now, accusations), checklist=_with_checks(run, agents))
    return recover(replace(run, control=control), world, tuple(faults))


def _preflight(run: Run, world: World, agents: list[tuple[Slot, AgentView]]) -> Decision:
    """All agents passed their own checks; where it is asked for, the checks in pairs come next."""
    if run.spec.full_preflight or doubted(run, world):
        return begin_preflight(run, world, "before the first step", checklist=_with_checks(run, agents))
    return move(
        run,
        world,
        RunState.RENDEZVOUS,
        Reason("PREFLIGHT_PASSED", f"{len(agents)} node(s) passed"),
        epoch=run.control.epoch + 1,
        epoch_since=world.now,
        checklist=_with_checks(run, agents),
    )


def _with_checks(run: Run, agents: list[tuple[Slot, AgentView]]) -> tuple[Finding, ...]:
    new = [check for _, agent in agents for check in agent.checks]
    return merge_checklist(run.control.checklist, new, (slot.node for slot, _ in agents))


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
        PrepareEpoch(agent.pod, control.epoch, bind_rendezvous=position == 0)
        for position, ((_, agent), is_started) in enumerate(zip(agents, started, strict=True))
        if agent.ready_epoch < control.epoch and not is_started
    ]
    if not commands and address:
        commands += [
            StartEpoch(agent.pod, control.epoch, _ranks(run, position), address, run.world_size)
            for position, ((_, agent), is_started) in enumerate(zip(agents, started, strict=True))
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
    return len(workers) >= run.world_size and all(w.phase not in _NOT_STEPPING for w in workers)


def _note_started(run: Run, world: World, agents: list[tuple[Slot, AgentView]]) -> Decision:
    incident = run.control.open_incident
    still_starting = any(w.phase in (WorkerPhase.STARTING, "") for _, agent in agents for w in agent.workers)
    if incident is None or incident.started_at is not None or still_starting:
        return Act()
    return Change(replace(run.control, incidents=amend_last(run.control.incidents, started_at=world.now)))


def _ranks(run: Run, position: int) -> tuple[int, ...]:
    first = position * run.spec.gpus_per_pod
    return tuple(range(first, first + run.spec.gpus_per_pod))
