"""Gangs that don't come together, and what a run is told meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest
from longhaul_training.domain.actions import Act, Change
from longhaul_training.domain.admission import waits_for_nodes
from longhaul_training.domain.decide import decide
from longhaul_training.domain.observations import PodPhase, PodView, Refusal, World
from longhaul_training.domain.placement import Capacity, place
from longhaul_training.domain.shortage import shortage
from longhaul_training.domain.states import Run, RunSpec, RunState, Slot
from situations import NOW, changed, make_run, make_world, with_pod, without_pod

QUOTA = Refusal("QUOTA_EXCEEDED", "exceeded quota: gpus", "raise the ResourceQuota")


def starting_run(state: RunState = RunState.ADMITTED, *, waited: float = 10.0, **control: object) -> tuple[Run, World]:
    """Two pods are created; neither runs yet and no agent has joined."""
    slots = tuple(Slot(index, 1, f"node-{index}", f"uid-{index}") for index in range(2))
    run = make_run(state, slots=slots, since=NOW - waited, **control)
    pods = {name: PodView(name, slot.pod_uid, PodPhase.PENDING, slot.node) for name, slot in run.current_pods().items()}
    return run, make_world(run, pods=pods, agents={})


def test_pod_that_pulls_its_image_is_waited_for_beyond_the_time_to_join() -> None:
    run, world = starting_run(waited=200.0)
    assert decide(run, world) == Act()


def test_image_that_cannot_be_pulled_is_told_at_once_and_gives_all_gpus_back_in_the_end() -> None:
    run, world = starting_run()
    first, second = run.current_pods()
    world = with_pod(world, first, reason="ImageUnavailable", message="Back-off pulling image")
    told = changed(decide(run, world))
    assert (told.state, told.reason.code) == (RunState.ADMITTED, "IMAGE_UNAVAILABLE")
    assert "pull_secrets" in told.reason.action
    late = replace(run, control=replace(told, since=NOW - world.limits.gang))
    released = changed(decide(late, world))
    assert (released.state, released.requeues, released.avoided_nodes) == (RunState.QUEUED, 1, ("node-0",))
    assert [slot.node for slot in released.slots] == ["", ""]
    assert released.backoff_until == NOW + world.limits.requeue_base
    assert second not in replace(run, control=released).current_pods()


def test_missing_image_fails_the_run_after_its_tries() -> None:
    run, world = starting_run(waited=300.0, requeues=4)
    world = with_pod(world, next(iter(run.current_pods())), reason="ImageUnavailable")
    ended = changed(decide(run, world))
    assert (ended.state, ended.reason.code) == (RunState.FAILED, "IMAGE_UNAVAILABLE")


def test_pause_between_tries_doubles_up_to_its_bound() -> None:
    pauses = []
    for requeues in (0, 1, 2, 9):
        run, world = starting_run(waited=300.0, requeues=requeues)
        pauses.append(changed(decide(run, world)).backoff_until - NOW)
    assert pauses == [30.0, 60.0, 120.0, 600.0]


def test_released_run_waits_for_its_pause_then_places_again() -> None:
    run = make_run(RunState.QUEUED, backoff_until=NOW + 5, avoided_nodes=("node-0",))
    world = make_world(run)
    assert decide(run, world) == Act()
    admitted = changed(decide(run, replace(world, now=NOW + 6)))
    assert admitted.state is RunState.ADMITTED
    assert "node-0" not in {slot.node for slot in admitted.slots}


def test_refused_pod_leaves_no_partial_gang() -> None:
    run, world = starting_run()
    first, second = run.current_pods()
    world = replace(without_pod(world, second), refusals={second: QUOTA})
    run = replace(run, control=replace(run.control, slots=(run.control.slots[0], Slot(1, 1, "node-1"))))
    released = changed(decide(run, world))
    assert (released.state, released.reason.code) == (RunState.QUEUED, "QUOTA_EXCEEDED")
    deletions = decide(replace(run, control=released), world)
    assert isinstance(deletions, Act)
    assert [action.pod for action in deletions.actions] == [first]  # type: ignore[union-attr]


def test_refusal_that_lasts_fails_the_run_at_once() -> None:
    run, world = starting_run()
    second = list(run.current_pods())[1]
    lasting = Refusal("OVERLAY_REFUSED", "the overlay", "take it out", lasting=True)
    world = replace(without_pod(world, second), refusals={second: lasting})
    run = replace(run, control=replace(run.control, slots=(run.control.slots[0], Slot(1, 1, "node-1"))))
    assert changed(decide(run, world)).state is RunState.FAILED


def test_pods_that_a_queue_of_the_cluster_holds_back_are_waited_for_without_end() -> None:
    run, world = starting_run(waited=100_000.0)
    for name in run.current_pods():
        world = with_pod(world, name, reason="SchedulingGated")
    told = changed(decide(run, world))
    assert (told.state, told.reason.code) == (RunState.ADMITTED, "WAITS_FOR_SCHEDULER")
    assert decide(replace(run, control=told), world) == Act()


def test_replacement_that_cannot_start_on_its_node_goes_to_another() -> None:
    run = make_run(RunState.RECOVERING)
    first = next(iter(run.current_pods()))
    world = with_pod(make_world(run), first, phase=PodPhase.PENDING, reason="ImageUnavailable")
    silent = {name: replace(agent, silent_seconds=130.0, connected=False) for name, agent in world.agents.items()}
    slot = replace(run.control.slots[0], joined=False)
    run = replace(run, control=replace(run.control, slots=(slot, run.control.slots[1])))
    decision = decide(run, replace(world, agents={**world.agents, first: silent[first]}))
    assert changed(decision).avoided_nodes == ("node-0",)


def test_silence_proves_nothing_while_the_controller_is_blind() -> None:
    run = make_run(RunState.RUNNING)
    world = make_world(run)
    silent = {name: replace(agent, silent_seconds=60.0, connected=False) for name, agent in world.agents.items()}
    assert isinstance(decide(run, replace(world, agents=silent)), Change)
    seen = decide(run, replace(world, agents=silent, blind=True))
    assert isinstance(seen, Act) or seen.control.state is RunState.SUSPECT


def test_disrupted_pod_is_no_failure_of_what_ran() -> None:
    run = make_run(RunState.RUNNING)
    first = next(iter(run.current_pods()))
    world = with_pod(make_world(run), first, phase=PodPhase.FAILED, reason="OOMKilled", exit_code=137, disrupted=True)
    assert dict(changed(decide(run, world)).failures.by_cause) == {"POD_EVICTED": 1}


def test_gang_is_placed_under_one_rack_and_its_replacement_too() -> None:
    free = {"a0": 1, "a1": 1, "b0": 1, "b1": 1, "b2": 1, "loose": 8}
    racks = {name: name[0] for name in free if name != "loose"}
    capacity = Capacity(free, groups=racks)
    assert place(capacity, 2, 1) == ("a0", "a1")
    assert place(capacity, 3, 1) == ("b0", "b1", "b2")
    assert place(capacity, 4, 1) is None
    assert place(capacity.without(["b0", "b1"], 1).in_group_of(["b0", "b1"]), 1, 1) == ("b2",)


@pytest.mark.parametrize(
    ("spec", "capacity", "code"),
    [
        (RunSpec(1, 1, pool="tpu"), Capacity({"a": 1}, {"a": "gpu"}), "POOL_UNKNOWN"),
        (RunSpec(1, 1, node_selector=(("x", "y"),)), Capacity({"a": 1}, allowed=frozenset()), "NO_MATCHING_NODE"),
        (RunSpec(2, 1, topology_label="rack"), Capacity({"a": 1, "b": 1}, groups={"a": "1", "b": "2"}), "NO_CAPACITY"),
        (RunSpec(2, 8), Capacity({"a": 8}), "NO_CAPACITY"),
    ],
)
def test_shortage_names_what_is_missing(spec: RunSpec, capacity: Capacity, code: str) -> None:
    assert shortage(spec, capacity).code == code


def test_run_of_an_unknown_pool_holds_back_nobody() -> None:
    run = make_run(RunState.QUEUED)
    run = replace(run, spec=replace(run.spec, pool="tpu"))
    waiting = replace(run, control=changed(decide(run, make_world(run))))
    assert waiting.control.reason.code == "POOL_UNKNOWN"
    assert not waits_for_nodes(waiting)
