"""Carries a checkup of a run's nodes through its rounds, one look at a time. Pure.

A round is an epoch of its own whose workers check instead of train, in groups with a rendezvous each: the way in which
workers are fenced and started is the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longhaul_training.domain import causes
from longhaul_training.domain.accused import accuse, acquit
from longhaul_training.domain.actions import Act, Action, Change, Decision, PrepareEpoch, RunEvent, StartEpoch
from longhaul_training.domain.checkup_record import Accusation, Checkup, CheckupPurpose, NodeReport
from longhaul_training.domain.checkups import ENDED, Verdict, judge, merge_checklist, pair_up, second_round
from longhaul_training.domain.faults import Fault
from longhaul_training.domain.observations import AgentView, World
from longhaul_training.domain.spares import ready_spares
from longhaul_training.domain.states import Control, Reason, RecoveryAction, Run, RunState, Slot
from longhaul_training.domain.transitions import amend, move, recover

PROGRAM = "check"
# Workers of a round that have ended without a report are waited for this long: the report may be under way.
SETTLE_SECONDS = 5.0


def first_round(run: Run, world: World, purpose: CheckupPurpose, why: str) -> Checkup:
    """The first round over all members."""
    return Checkup(purpose, 1, pair_up([slot.index for slot in run.members]), world.now, why=why)


def doubted(run: Run, world: World) -> bool:
    """Whether workers said that one of their nodes computes wrongly, and no diagnosis has ended since."""
    said = world.training.suspicion
    return said is not None and run.control.diagnosed_epoch < said.epoch < run.control.epoch


def diagnose_doubt(run: Run, world: World) -> Change:
    """Checks all nodes in pairs before the workers start again."""
    said = world.training.suspicion
    assert said is not None
    checkup = first_round(run, world, CheckupPurpose.DIAGNOSIS, said.message)
    event = RunEvent("DIAGNOSIS_STARTED", said.cause, said.message, {"groups": len(checkup.groups)})
    epoch = run.control.epoch + 1
    return amend(run, event, checkup=checkup, epoch=epoch, epoch_since=world.now, diagnosed_at=world.now)


def begin_preflight(run: Run, world: World, why: str, **changes: Any) -> Change:
    """Checks all nodes in pairs before the first step, or again after some were replaced."""
    checkup = first_round(run, world, CheckupPurpose.PREFLIGHT, why)
    text = f"{len(run.members)} node(s) are checked {why}, {len(checkup.groups)} group(s)"
    event = RunEvent("PREFLIGHT_STARTED", "", text)
    epoch = run.control.epoch + 1
    return amend(run, event, checkup=checkup, epoch=epoch, epoch_since=world.now, preflight_again=False, **changes)


def check_nodes(run: Run, world: World) -> Decision:
    """The next step of a run whose nodes are being checked and whose agents have all joined."""
    checkup = run.control.checkup
    assert checkup is not None
    slots = {slot.index: slot for slot in run.control.slots}
    checked = [slots[index] for group in checkup.groups for index in group]
    reports = {slot.index: _reports_of(run, slot, world) for slot in checked}
    late = world.now - checkup.since >= world.limits.check
    if late or all(reports[slot.index] or _ended(run, slot, world) for slot in checked):
        return _judge(run, world, checkup, reports)
    groups = [[slots[index] for index in group] for group in checkup.groups]
    if any(_half_started(run, world, group) for group in groups):
        return _begin_again(run, world, checkup)
    return Act(tuple(action for group in groups for action in _start_group(run, world, group)))


def _half_started(run: Run, world: World, group: list[Slot]) -> bool:
    """An earlier leader started a part of the group, and its address is gone with that leader."""
    epoch = run.control.epoch
    agents = [agent for slot in group if (agent := world.agents.get(run.pod_name(slot))) is not None]
    started = [_started(agent, epoch) for agent in agents]
    lost = any(agent.ready_epoch < epoch for agent, is_started in zip(agents, started, strict=True) if not is_started)
    return any(started) and lost


def _begin_again(run: Run, world: World, checkup: Checkup) -> Decision:
    if world.now - run.control.epoch_since < world.limits.reconnect:
        return Act()
    event = RunEvent("EPOCH_ABANDONED", "LEADER_CHANGED", f"checks of epoch {run.control.epoch} were started in part")
    again = replace(checkup, since=world.now)
    return amend(run, event, checkup=again, epoch=run.control.epoch + 1, epoch_since=world.now)


def _start_group(run: Run, world: World, group: list[Slot]) -> list[Action]:
    epoch, gpus = run.control.epoch, run.spec.gpus_per_pod
    agents = [world.agents.get(run.pod_name(slot)) for slot in group]
    present = [agent for agent in agents if agent is not None and agent.connected]
    if len(present) < len(group):
        return []
    behind = [agent for agent in present if agent.ready_epoch < epoch and not _started(agent, epoch)]
    if behind:
        first = present[0].pod
        return [PrepareEpoch(agent.pod, epoch, bind_rendezvous=agent.pod == first) for agent in behind]
    address = present[0].rendezvous_address
    return [
        StartEpoch(agent.pod, epoch, tuple(range(n * gpus, (n + 1) * gpus)), address, len(group) * gpus, PROGRAM)
        for n, agent in enumerate(present)
        if not _started(agent, epoch)
    ]


def _judge(run: Run, world: World, checkup: Checkup, reports: dict[int, tuple[NodeReport, ...]]) -> Decision:
    nodes = {slot.index: slot.node for slot in run.control.slots}
    verdict = judge(checkup, nodes, reports)
    checklist = merge_checklist(run.control.checklist, verdict.checklist, nodes.values())
    run = replace(run, control=replace(run.control, checklist=checklist))
    if not verdict.failed:
        return _clear(run, world, checkup)
    members = {slot.index for slot in run.members}
    if checkup.round == 1:
        good = [index for group in checkup.groups for index in group if index not in verdict.failed]
        good += [slot.index for slot in ready_spares(run, world)]
        suspects = tuple(sorted(verdict.failed))
        groups = second_round(suspects, good, checkup.groups)
        again = replace(checkup, round=2, groups=groups, since=world.now, suspects=suspects)
        text = "; ".join(f"{nodes[index]}: {why}" for index, why in sorted(verdict.failed.items()))
        event = RunEvent("NODES_SUSPECTED", checkup.purpose.value, f"checked again with other partners: {text}")
        epoch = run.control.epoch + 1
        return amend(run, event, checkup=again, epoch=epoch, epoch_since=world.now)
    guilty = [index for index in checkup.suspects if index in verdict.failed and index in members]
    if not guilty:
        return _clear(run, world, checkup)
    return _replace(run, world, checkup, verdict, guilty)


def _replace(run: Run, world: World, checkup: Checkup, verdict: Verdict, guilty: list[int]) -> Decision:
    """Accuses the nodes that failed twice and moves their pods."""
    nodes = {slot.index: slot.node for slot in run.control.slots}
    accusations, faults = [], []
    for index in guilty:
        text = f"failed two rounds of checks: {verdict.failed[index]}"
        if not verdict.failed[index].startswith(f"{ENDED}:"):
            # A check that was killed on its way is reason enough to leave, but proves nothing against the node.
            accusations.append(Accusation(nodes[index], text, f"{run.id}-{run.control.epoch}-{nodes[index]}"))
        faults.append(
            Fault(causes.NODE_FAULTY, f"{nodes[index]} {text}", RecoveryAction.NODE, world.now, index, nodes[index])
        )
    control = replace(accuse(run.control, world.now, accusations), diagnosed_epoch=run.control.epoch)
    accused = replace(run, control=control)
    change = recover(accused, world, tuple(faults))
    if checkup.purpose is CheckupPurpose.PREFLIGHT and not change.control.state.terminal:
        # Whoever takes their places has not been checked.
        change = replace(change, control=replace(change.control, preflight_again=True))
    return change


def _clear(run: Run, world: World, checkup: Checkup) -> Decision:
    """No node is to blame: the run goes on."""
    control: Control = run.control
    changes = {
        "epoch": control.epoch + 1,
        "epoch_since": world.now,
        "checkup": None,
        "diagnosed_epoch": control.epoch,
        "accused": acquit(control.accused, (slot.node for slot in run.members)),
    }
    if checkup.purpose is CheckupPurpose.PREFLIGHT:
        reason = Reason("PREFLIGHT_PASSED", f"{len(run.members)} node(s) passed {len(control.checklist)} checks")
        return move(run, world, RunState.RENDEZVOUS, reason, **changes)
    event = RunEvent("DIAGNOSIS_CLEAR", "DIAGNOSIS", f"no node is to blame for: {checkup.why}")
    return amend(run, event, **changes)


def _reports_of(run: Run, slot: Slot, world: World) -> tuple[NodeReport, ...]:
    pod = run.pod_name(slot)
    found = (r for r in world.training.node_reports if r.pod == pod and r.epoch == run.control.epoch)
    reports = tuple(found)
    return reports if len(reports) >= run.spec.gpus_per_pod else ()


def _ended(run: Run, slot: Slot, world: World) -> bool:
    """Whether the slot's check has ended without a report that could still come."""
    pod, epoch = run.pod_name(slot), run.control.epoch
    ends = [exit_.at for exit_ in world.training.exits if exit_.pod == pod and exit_.epoch == epoch]
    return bool(ends) and world.now - max(ends) >= SETTLE_SECONDS


def _started(agent: AgentView, epoch: int) -> bool:
    return agent.epoch == epoch and bool(agent.workers)
