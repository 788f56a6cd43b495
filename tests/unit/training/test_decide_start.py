from __future__ import annotations

from dataclasses import replace

import pytest
from longhaul_training.domain.actions import CreatePod, PrepareEpoch, RegisterEpoch, StartEpoch
from longhaul_training.domain.decide import decide
from longhaul_training.domain.observations import InputStatus, InputView, PodPhase, PodView
from longhaul_training.domain.placement import Capacity, SpareDemand
from longhaul_training.domain.states import Desired, RunState, Wish
from situations import NOW, actions, changed, make_agent, make_run, make_world, settle, wishing, with_agent

BOTH = ("p.run-r-0-1", "p.run-r-1-1")


def test_run_without_its_token_set_waits_and_holds_nothing() -> None:
    run = make_run(RunState.QUEUED, pinned=None)
    world = make_world(run, inputs=InputView(InputStatus.MISSING, "not there yet"))
    run, done, _ = settle(run, world)
    assert run.control.state is RunState.WAITING_FOR_INPUTS
    assert run.control.reason.message == "not there yet"
    assert done == ()


def test_run_whose_input_answer_is_unknown_stays_queued() -> None:
    run = make_run(RunState.QUEUED, pinned=None)
    assert actions(decide(run, make_world(run, inputs=InputView()))) == ()


def test_run_whose_input_failed_fails_and_says_what_to_do() -> None:
    run = make_run(RunState.WAITING_FOR_INPUTS)
    control = changed(decide(run, make_world(run, inputs=InputView(InputStatus.FAILED, "build b failed"))))
    assert control.state is RunState.FAILED
    assert "retry" in control.reason.action


def test_ready_input_is_pinned_before_the_run_is_placed() -> None:
    run = make_run(RunState.WAITING_FOR_INPUTS)
    run, done, _ = settle(run, make_world(run))
    assert run.control.pinned is not None
    assert run.control.pinned.digest == "digest"
    assert run.control.state is RunState.ADMITTED
    assert sorted(slot.node for slot in run.control.slots) == ["node-0", "node-1"]
    assert {a.pod for a in done if isinstance(a, CreatePod)} == set(BOTH)


def test_gang_is_placed_as_a_whole_or_not_at_all() -> None:
    run = make_run(pods=3)
    run, done, _ = settle(run, make_world(run, capacity=Capacity({"node-0": 1, "node-1": 1})))
    assert run.control.state is RunState.QUEUED
    assert run.control.reason.code == "NO_CAPACITY"
    assert "needs 3 node(s)" in run.control.reason.message
    assert "2 GPU(s) are free" in run.control.reason.message
    assert done == ()


def test_run_behind_another_says_why_and_takes_nothing() -> None:
    run = make_run()
    run, done, _ = settle(run, make_world(run, queue_problem="projects/p/trainingRuns/big is ahead"))
    assert run.control.state is RunState.QUEUED
    assert run.control.reason.message == "projects/p/trainingRuns/big is ahead"
    assert done == ()


def test_spares_of_other_runs_are_left_alone() -> None:
    run = make_run(pods=1)
    one_free = Capacity({"node-0": 1}, {}, (SpareDemand("other", 1, 1),))
    run, _, _ = settle(run, make_world(run, capacity=one_free))
    assert run.control.state is RunState.QUEUED


def test_pods_are_created_only_after_their_places_are_written() -> None:
    run = make_run()
    decision = decide(run, make_world(run))
    assert changed(decision).state is RunState.ADMITTED


def test_admitted_run_waits_for_all_agents_then_passes_preflight_in_a_new_epoch() -> None:
    run = make_run(RunState.ADMITTED)
    world = make_world(run)
    half = with_agent(world, BOTH[1], connected=False)
    assert settle(run, half)[0].control.state is RunState.ADMITTED
    run, done, _ = settle(run, world)
    assert run.control.state is RunState.RENDEZVOUS
    assert run.control.epoch == 1
    assert done == (RegisterEpoch(1),)


def test_preflight_problem_moves_the_pod_to_another_node() -> None:
    run = make_run(RunState.PREFLIGHT)
    world = with_agent(make_world(run), BOTH[0], problems=("the pod has 0 GPU(s)",))
    control = changed(decide(run, world))
    assert control.state is RunState.RECOVERING
    assert control.reason.code == "PREFLIGHT_FAILED"
    assert control.slots[0].node == ""
    assert control.avoided_nodes == ("node-0",)


def rendezvous(**control: object) -> tuple[object, object]:
    run = make_run(RunState.RENDEZVOUS, **control)
    world = make_world(run, training=replace(make_world(run).training, step_epoch=0))
    idle = {pod: make_agent(run, pod, epoch=0, ready_epoch=0, workers=()) for pod in BOTH}
    return run, replace(world, agents=idle)


def test_epoch_is_registered_before_any_agent_hears_of_it() -> None:
    run, world = rendezvous(registered_epoch=0)
    assert actions(decide(run, world)) == (RegisterEpoch(1),)


def test_agents_prepare_first_and_rank_0_binds() -> None:
    run, world = rendezvous()
    assert set(actions(decide(run, world))) == {PrepareEpoch(BOTH[0], 1, True), PrepareEpoch(BOTH[1], 1, False)}


def test_workers_start_once_every_agent_is_ready() -> None:
    run, world = rendezvous()
    one = with_agent(world, BOTH[0], epoch=1, ready_epoch=1, rendezvous_address="h:1")
    assert actions(decide(run, one)) == (PrepareEpoch(BOTH[1], 1, False),)
    both = with_agent(one, BOTH[1], epoch=1, ready_epoch=1)
    assert set(actions(decide(run, both))) == {
        StartEpoch(BOTH[0], 1, (0,), "h:1", 2),
        StartEpoch(BOTH[1], 1, (1,), "h:1", 2),
    }


def test_started_workers_are_left_alone_until_all_step() -> None:
    run, world = rendezvous()
    for pod in BOTH:
        started = make_agent(run, pod)
        starting = tuple(replace(worker, phase="starting") for worker in started.workers)
        world = with_agent(world, pod, epoch=1, ready_epoch=1, workers=starting, rendezvous_address="h:1")
    assert actions(decide(run, world)) == ()
    for pod in BOTH:
        world = with_agent(world, pod, workers=make_agent(run, pod).workers)
    assert changed(decide(run, world)).state is RunState.RUNNING


def test_first_metric_row_of_the_epoch_is_proof_enough() -> None:
    run, world = rendezvous()
    world = replace(world, training=replace(world.training, step=1, step_epoch=1))
    assert changed(decide(run, world)).state is RunState.RUNNING


def test_epoch_that_an_earlier_leader_started_in_part_is_given_up_after_a_reconnect_period() -> None:
    run, world = rendezvous(epoch_since=NOW - 5)
    world = with_agent(world, BOTH[0], **{"epoch": 1, "workers": make_agent(run, BOTH[0]).workers})
    assert actions(decide(run, world)) == ()
    late = replace(run, control=replace(run.control, epoch_since=NOW - 30))
    decision = decide(late, world)
    assert changed(decision).epoch == 2
    assert decision.events[0].type == "EPOCH_ABANDONED"


def test_running_workers_of_the_epoch_survive_a_change_of_leader() -> None:
    run = make_run(RunState.RUNNING)
    assert actions(decide(run, make_world(run))) == ()


def test_pods_of_older_incarnations_are_deleted_by_uid() -> None:
    run = make_run(RunState.RUNNING)
    world = make_world(run)
    stale = PodView("p.run-r-0-0", "old-uid", PodPhase.UNKNOWN, "node-2")
    done = actions(decide(run, replace(world, pods={**world.pods, stale.name: stale})))
    assert [(a.pod, a.uid) for a in done] == [("p.run-r-0-0", "old-uid")]


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.WAITING_FOR_INPUTS])
def test_waiting_run_is_paused_at_once(state: RunState) -> None:
    run = wishing(make_run(state), Desired(Wish.PAUSE))
    assert settle(run, make_world(run))[0].control.state is RunState.PAUSED
