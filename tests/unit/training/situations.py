"""Runs and worlds in the middle of something, for tests of the controller's decisions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longhaul_training.domain.actions import Act, Action, Change, Decision
from longhaul_training.domain.decide import decide
from longhaul_training.domain.observations import (
    AgentView,
    InputStatus,
    InputView,
    NodeView,
    PodPhase,
    PodView,
    WorkerView,
    World,
)
from longhaul_training.domain.placement import Capacity
from longhaul_training.domain.reports import Reports, WorkerExit
from longhaul_training.domain.states import (
    Control,
    Desired,
    PinnedInput,
    Run,
    RunSpec,
    RunState,
    Slot,
    TimeSpent,
    new_control,
)

NOW = 1_000_000.0
PINNED = PinnedInput("projects/p/tokenSets/t", "key", "digest")


def make_run(state: RunState = RunState.QUEUED, *, pods: int = 2, spares: int = 0, **control: Any) -> Run:
    """A run of pods with one GPU each; placed on node-0, node-1, … where its state has places."""
    spec = RunSpec(pods=pods, gpus_per_pod=1, spares=spares, token_set=PINNED.name)
    base: Control = replace(new_control(NOW - 100), state=state, time=TimeSpent(until=NOW - 100))
    if state is not RunState.WAITING_FOR_INPUTS:
        base = replace(base, pinned=PINNED)
    if state.holds_gpus:
        started = state not in (RunState.ADMITTED, RunState.PREFLIGHT)
        slots = tuple(Slot(i, 1, f"node-{i}", f"uid-{i}", joined=True) for i in range(pods))
        base = replace(base, slots=slots, epoch=int(started), registered_epoch=int(started), epoch_since=NOW - 50)
    return Run("p", "r", "run-uid", spec, replace(base, **control), created_at=NOW - 200)


def make_world(run: Run, **changes: Any) -> World:
    """A world in which all is well with the run: its pods run, its agents speak, its workers step."""
    pods = {
        name: PodView(name, slot.pod_uid, PodPhase.RUNNING, slot.node)
        for name, slot in run.current_pods().items()
        if slot.pod_uid
    }
    agents = {name: make_agent(run, name) for name in pods}
    nodes = {f"node-{i}": NodeView(f"node-{i}", ready=True, schedulable=True) for i in range(run.spec.pods + 2)}
    free = {name: 1 for name in nodes if name not in {slot.node for slot in run.control.slots}}
    reports = Reports(step=40, step_epoch=run.control.epoch, high_step=40) if run.control.epoch else Reports()
    world = World(
        now=NOW,
        pods=pods,
        nodes=nodes,
        agents=agents,
        training=reports,
        inputs=InputView(InputStatus.READY, "", "key", "digest"),
        capacity=Capacity(free, {}),
    )
    return replace(world, **changes)


def make_agent(run: Run, pod: str, **changes: Any) -> AgentView:
    slot = run.current_pods()[pod]
    epoch = run.control.epoch
    workers = (WorkerView(slot.index, "stepping", 40, process_id=100 + slot.index),) if epoch else ()
    return replace(AgentView(pod, True, 0.5, epoch=epoch, ready_epoch=epoch, workers=workers), **changes)


def exits(run: Run, *pairs: tuple[int, int], at: float = NOW - 2, epoch: int = 0) -> tuple[WorkerExit, ...]:
    """Ends of workers by (rank, exit code)."""
    return tuple(
        WorkerExit(run.pod_name(run.control.slots[rank]), epoch or run.control.epoch, rank, code, at, 41)
        for rank, code in pairs
    )


def with_reports(world: World, **changes: Any) -> World:
    return replace(world, training=replace(world.training, **changes))


def with_pod(world: World, name: str, **changes: Any) -> World:
    return replace(world, pods={**world.pods, name: replace(world.pods[name], **changes)})


def with_agent(world: World, name: str, **changes: Any) -> World:
    return replace(world, agents={**world.agents, name: replace(world.agents[name], **changes)})


def with_node(world: World, name: str, **changes: Any) -> World:
    return replace(world, nodes={**world.nodes, name: replace(world.nodes[name], **changes)})


def without_pod(world: World, name: str) -> World:
    return replace(
        world,
        pods={key: pod for key, pod in world.pods.items() if key != name},
        agents={key: agent for key, agent in world.agents.items() if key != name},
    )


def wishing(run: Run, desired: Desired) -> Run:
    return replace(run, desired=desired)


def changed(decision: Decision) -> Control:
    assert isinstance(decision, Change), decision
    return decision.control


def actions(decision: Decision) -> tuple[Action, ...]:
    assert isinstance(decision, Act), decision
    return decision.actions


def settle(run: Run, world: World) -> tuple[Run, tuple[Action, ...], list[str]]:
    """Decides until the record stands; the record, the actions then, and the types of all events on the way."""
    happened: list[str] = []
    for _ in range(20):
        decision = decide(run, world)
        if isinstance(decision, Act):
            return run, decision.actions, happened
        run = replace(run, control=decision.control)
        happened += [event.type for event in decision.events]
    raise AssertionError(f"does not settle: {run.control}")
