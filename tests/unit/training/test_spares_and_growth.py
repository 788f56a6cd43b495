"""Warm spares, elastic runs, and another number of nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from longhaul_core.cluster import Node
from longhaul_core.errors import FailedPrecondition
from longhaul_training.adapters.cluster_view import ClusterSnapshot
from longhaul_training.adapters.codec import fitting_sizes
from longhaul_training.adapters.look import Look
from longhaul_training.domain.actions import CreatePod, StartEpoch
from longhaul_training.domain.checkup_record import AccusedNode
from longhaul_training.domain.decide import decide
from longhaul_training.domain.observations import AgentView, DrainView, PodPhase, PodView, World
from longhaul_training.domain.placement import Capacity, place
from longhaul_training.domain.spares import ready_spares, sized_spares
from longhaul_training.domain.states import RecoveryAction, Run, RunState, Slot, StopPurpose
from longhaul_training.domain.verbs import resize
from situations import NOW, actions, changed, exits, make_run, make_world, settle, with_node, with_reports


def with_spare(run: Run, world: World, index: int = 2, node: str = "node-2", **agent: Any) -> tuple[Run, World]:
    """A run with one warm spare, and its pod and agent in the world."""
    slot = Slot(index, 1, node, f"uid-{index}", joined=True, spare=True)
    run = replace(run, control=replace(run.control, slots=(*run.control.slots, slot)))
    name = run.pod_name(slot)
    pods = {**world.pods, name: PodView(name, slot.pod_uid, PodPhase.RUNNING, node)}
    agents = {**world.agents, name: replace(AgentView(name, True, 0.1), **agent)}
    return run, replace(world, pods=pods, agents=agents)


def test_running_run_places_the_spares_it_lacks_and_makes_their_pods() -> None:
    run = make_run(RunState.RUNNING, spares=1)
    run, done, happened = settle(run, make_world(run))
    assert happened == ["SPARE_PLACED"]
    assert [(slot.index, slot.spare) for slot in run.control.slots] == [(0, False), (1, False), (2, True)]
    assert any(isinstance(action, CreatePod) and action.slot == 2 for action in done)


def test_spare_is_never_placed_on_a_node_that_the_run_accused() -> None:
    run = make_run(RunState.RUNNING, spares=1, accused=(AccusedNode("node-2", NOW - 60),))
    world = make_world(run)
    assert sorted(world.capacity.free) == ["node-2", "node-3"]
    placed, _, _ = settle(run, world)
    assert [slot.node for slot in placed.spares] == ["node-3"]
    full = replace(world, capacity=replace(world.capacity, free={"node-2": 1, "node-3": 0}))
    assert settle(run, full)[0].spares == ()
    later = replace(full, now=NOW - 60 + full.limits.accused)
    assert [slot.node for slot in settle(run, later)[0].spares] == ["node-2"]


def test_accused_node_is_not_kept_for_the_spare_that_would_not_take_it() -> None:
    nodes = [Node(name, f"uid-{name}", ready=True, gpus_total=1, resource_version="1") for name in ("node-2", "node-3")]
    run = make_run(RunState.RUNNING, spares=1, accused=(AccusedNode("node-2", NOW - 60),))

    def room(now: float, *free: Node) -> tuple[str, ...] | None:
        look = Look(ClusterSnapshot(nodes=free), {}, {}, (), now, accused_seconds=3600.0)
        look.note_run(run)
        return place(look.capacity(), 1, 1)

    accused, innocent = nodes
    assert room(NOW, accused, innocent) == room(NOW, accused) == ("node-2",)
    assert room(NOW, innocent) is None, "the innocent one is kept for the spare"
    assert room(NOW + 3600, accused) is None, "what was accused long ago would do for the spare again"


def test_spare_on_a_node_that_the_run_accused_is_given_up_and_takes_no_ranks() -> None:
    run = make_run(RunState.RUNNING, spares=1, accused=(AccusedNode("node-2", NOW - 60),))
    run, world = with_spare(run, make_world(run))
    assert ready_spares(run, world) == ()
    moved, _, happened = settle(run, world)
    assert happened == ["SPARE_LOST", "SPARE_PLACED"]
    assert [(slot.node, slot.incarnation) for slot in moved.spares] == [("node-3", 2)]


@pytest.mark.parametrize("state", [{"schedulable": False}, {"drain": DrainView("s", True, "XID_79", NOW)}])
def test_accused_node_that_gpuhealth_took_out_is_its_affair_and_used_once_it_is_back(state: dict[str, Any]) -> None:
    run = make_run(RunState.RUNNING, spares=1, accused=(AccusedNode("node-2", NOW - 60),))
    taken = with_node(make_world(run), "node-2", **state)
    full = replace(taken, capacity=replace(taken.capacity, free={"node-3": 0}))
    run, _, _ = settle(run, full)
    assert run.control.accused == ()
    back = replace(make_world(run), capacity=replace(taken.capacity, free={"node-2": 1, "node-3": 0}))
    assert [slot.node for slot in settle(run, back)[0].spares] == ["node-2"]


def test_accused_node_that_died_is_still_accused_when_it_is_back() -> None:
    run = make_run(RunState.RUNNING, spares=1, accused=(AccusedNode("node-2", NOW - 60),))
    dead = with_node(make_world(run), "node-2", ready=False, schedulable=False)
    run, _, _ = settle(run, replace(dead, capacity=replace(dead.capacity, free={"node-3": 0})))
    assert [known.node for known in run.control.accused] == ["node-2"]
    back = replace(make_world(run), capacity=replace(dead.capacity, free={"node-2": 1, "node-3": 0}))
    assert settle(run, back)[0].spares == ()


def test_member_moves_to_an_accused_node_only_when_there_is_no_other() -> None:
    run = make_run(RunState.RECOVERING, accused=(AccusedNode("node-2", NOW - 60),), epoch=2)
    slots = (run.control.slots[0].renewed(""), run.control.slots[1])
    run = replace(run, control=replace(run.control, slots=slots))
    world = make_world(run)
    assert settle(run, world)[0].members[0].node == "node-0"
    only = replace(world, capacity=replace(world.capacity, free={"node-2": 1}))
    assert settle(run, only)[0].members[0].node == "node-2"


def test_warm_spare_takes_the_ranks_of_a_lost_node_at_once() -> None:
    run = make_run(RunState.RUNNING, spares=1)
    run, world = with_spare(run, make_world(run))
    lost = with_node(world, "node-0", ready=False)
    name = run.pod_name(run.members[0])
    gone = replace(lost.agents[name], connected=False, closed_seconds=5.0)
    control = changed(decide(run, replace(lost, agents={**lost.agents, name: gone})))
    assert control.state is RunState.RECOVERING
    assert control.recovery is RecoveryAction.NODE
    members = [slot for slot in control.slots if not slot.spare]
    assert [(slot.index, slot.node) for slot in members] == [(1, "node-1"), (2, "node-2")]
    assert all(slot.joined for slot in members)
    again = next(slot for slot in control.slots if slot.index == 0)
    assert (again.spare, again.node, again.incarnation) == (True, "", 2)


def test_ranks_follow_the_order_of_members_not_the_numbers_of_slots() -> None:
    run = make_run(RunState.RECOVERING, epoch=3, registered_epoch=3)
    slots = (replace(run.control.slots[0], index=1), replace(run.control.slots[1], index=4))
    run = replace(run, control=replace(run.control, slots=slots))
    world = with_reports(make_world(run), step_epoch=2)
    agents = {
        run.pod_name(slot): AgentView(run.pod_name(slot), True, 0.1, epoch=3, ready_epoch=3, rendezvous_address=address)
        for slot, address in zip(slots, ("h:1", ""), strict=True)
    }
    started = actions(decide(run, replace(world, agents=agents)))
    assert [(a.pod, a.ranks, a.world_size) for a in started if isinstance(a, StartEpoch)] == [
        ("p.run-r-1-1", (0,), 2),
        ("p.run-r-4-1", (1,), 2),
    ]


def test_lost_spare_disturbs_no_member() -> None:
    run = make_run(RunState.RUNNING, spares=1)
    run, world = with_spare(run, make_world(run, capacity=Capacity()))
    pods = {name: pod for name, pod in world.pods.items() if name != "p.run-r-2-1"}
    after, _, happened = settle(run, replace(world, pods=pods))
    assert happened == ["SPARE_LOST"]
    assert after.control.state is RunState.RUNNING
    assert after.control.epoch == run.control.epoch


def elastic(state: RunState, **control: Any) -> Run:
    run = make_run(state, pods=3, **control)
    return replace(run, spec=replace(run.spec, elastic_sizes=(1, 2)))


def test_elastic_run_goes_on_with_fewer_nodes_once_no_replacement_came() -> None:
    run = elastic(RunState.RECOVERING, epoch=2, registered_epoch=1, epoch_since=NOW - 5)
    slots = (*run.control.slots[:2], Slot(2, 2))
    run = replace(run, control=replace(run.control, slots=slots))
    empty = make_world(run, capacity=Capacity())
    waiting, _, _ = settle(run, empty)
    assert waiting.control.reason.code == "NO_SPARE"
    late = replace(empty, now=NOW + empty.limits.elastic_patience)
    shrunk, _, happened = settle(waiting, late)
    assert "SHRUNK" in happened
    assert [slot.index for slot in shrunk.members] == [0, 1]
    assert shrunk.world_size == 2


def test_elastic_run_grows_back_after_a_checkpoint() -> None:
    run = elastic(RunState.RUNNING)
    slots = (*run.control.slots[:2], replace(run.control.slots[2], spare=True))
    run = replace(run, control=replace(run.control, slots=slots))
    world = make_world(run)
    stopping, _, happened = settle(run, world)
    assert happened == ["GROWTH_STARTED"]
    assert stopping.control.stopping is not None
    assert stopping.control.stopping.purpose is StopPurpose.GROW
    ended = with_reports(world, exits=exits(run, (0, 82), (1, 82)))
    control = changed(decide(stopping, ended))
    assert control.state is RunState.RECOVERING
    assert control.epoch == run.control.epoch + 1
    assert [slot.spare for slot in control.slots] == [False, False, False]
    assert control.incidents == run.control.incidents, "growing is no fault"


def test_sizes_are_those_over_which_the_global_batch_divides() -> None:
    config = '{"data": {"global_batch_size": 24, "micro_batch_size": 2}, "layout": {"data_parallel": 6}}'
    assert fitting_sizes(config, 1, 6, 1) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("nodes", "rate", "hours", "spares"), [(0, 1.0, 24.0, 0), (100, 0.0, 24.0, 0), (1000, 0.01, 24.0, 18)]
)
def test_spares_cover_failed_nodes_99_percent_of_the_time(nodes: int, rate: float, hours: float, spares: int) -> None:
    assert sized_spares(nodes, rate, hours) == spares


def test_number_of_nodes_changes_only_while_paused() -> None:
    paused = make_run(RunState.PAUSED)
    assert resize(5)(paused).nodes == 5
    with pytest.raises(FailedPrecondition, match="while a run is paused"):
        resize(5)(make_run(RunState.RUNNING))


def test_resized_run_is_admitted_with_its_new_number_of_nodes_and_no_pod_name_returns() -> None:
    run = make_run(RunState.QUEUED)
    slots = tuple(Slot(index, 3) for index in range(3))
    smaller = replace(run, control=replace(run.control, slots=slots), spec=replace(run.spec, pods=2))
    control = changed(decide(smaller, make_world(smaller)))
    assert control.state is RunState.ADMITTED
    assert [(slot.spare, bool(slot.node)) for slot in control.slots] == [(False, True), (False, True), (True, False)]
    larger = replace(smaller, spec=replace(run.spec, pods=4))
    world = make_world(larger)
    control = changed(decide(larger, world))
    assert [(slot.index, slot.incarnation) for slot in control.slots] == [(0, 3), (1, 3), (2, 3), (3, 1)]
