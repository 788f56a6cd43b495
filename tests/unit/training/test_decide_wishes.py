from __future__ import annotations

from dataclasses import replace

import pytest
from longhaul_core.errors import FailedPrecondition
from longhaul_training.domain import verbs
from longhaul_training.domain.actions import DeletePod, StopAfterCheckpoint
from longhaul_training.domain.decide import decide
from longhaul_training.domain.observations import PodPhase
from longhaul_training.domain.states import ACTIVE_STATES, Desired, FailureRecord, RunState, Wish
from situations import (
    NOW,
    actions,
    changed,
    exits,
    make_run,
    make_world,
    settle,
    wishing,
    with_node,
    with_pod,
    with_reports,
)

CANCEL, PAUSE = Desired(Wish.CANCEL), Desired(Wish.PAUSE)
FIRST, SECOND = "p.run-r-0-1", "p.run-r-1-1"


@pytest.mark.parametrize("state", sorted(ACTIVE_STATES))
def test_cancel_deletes_the_pods_and_then_ends(state: RunState) -> None:
    run = wishing(make_run(state), CANCEL)
    world = make_world(run)
    run, done, _ = settle(run, world)
    assert run.control.state is state
    assert {(a.pod, a.uid) for a in done if isinstance(a, DeletePod)} == {(FIRST, "uid-0"), (SECOND, "uid-1")}
    run, _, _ = settle(run, replace(world, pods={}))
    assert run.control.state is RunState.CANCELLED
    assert run.control.ended_at == NOW


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.WAITING_FOR_INPUTS, RunState.PAUSED])
def test_cancel_of_a_run_without_pods_ends_at_once(state: RunState) -> None:
    run = wishing(make_run(state), CANCEL)
    assert settle(run, make_world(run))[0].control.state is RunState.CANCELLED


def test_cancel_does_not_wait_for_a_node_that_does_not_answer() -> None:
    run = wishing(make_run(RunState.RUNNING), CANCEL)
    world = with_pod(make_world(run), FIRST, phase=PodPhase.UNKNOWN)
    world = with_pod(with_node(world, "node-1", ready=False), SECOND, phase=PodPhase.RUNNING)
    assert settle(run, world)[0].control.state is RunState.CANCELLED


def test_cancel_ends_even_when_pods_will_not_die() -> None:
    run = wishing(make_run(RunState.RUNNING), CANCEL)
    world = make_world(run)
    run, _, _ = settle(run, world)
    stuck = with_pod(with_pod(world, FIRST, deleting=True), SECOND, deleting=True)
    assert actions(decide(run, stuck)) == ()
    assert changed(decide(run, replace(stuck, now=NOW + 31))).state is RunState.CANCELLED


@pytest.mark.parametrize("state", [RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED])
def test_terminal_run_stays_terminal_and_cleans_up(state: RunState) -> None:
    run = wishing(make_run(state), CANCEL)
    left = make_world(make_run(RunState.RUNNING))
    decision = decide(run, left)
    assert {a.pod for a in actions(decision)} == {FIRST, SECOND}


def test_pause_checkpoints_first_and_gives_the_nodes_back() -> None:
    run = wishing(make_run(RunState.RUNNING), PAUSE)
    world = make_world(run)
    run, done, _ = settle(run, world)
    assert set(done) == {StopAfterCheckpoint(FIRST, 1, "pause"), StopAfterCheckpoint(SECOND, 1, "pause")}
    run, done, _ = settle(run, with_reports(world, exits=exits(run, (0, 82), (1, 82))))
    assert run.control.state is RunState.PAUSED
    assert [(slot.incarnation, slot.node) for slot in run.control.slots] == [(2, ""), (2, "")]
    assert {a.pod for a in done} == {FIRST, SECOND}


def test_pause_during_a_fault_does_not_wait_for_a_checkpoint() -> None:
    run = wishing(make_run(RunState.RECOVERING, epoch=2), PAUSE)
    assert settle(run, make_world(run))[0].control.state is RunState.PAUSED


def test_resumed_run_queues_with_new_pod_names() -> None:
    slots = tuple(slot.renewed("") for slot in make_run(RunState.RUNNING).control.slots)
    run = make_run(RunState.PAUSED, slots=slots, epoch=3, registered_epoch=3)
    resumed, done, _ = settle(run, make_world(run))
    assert resumed.control.state is RunState.ADMITTED
    assert {a.pod for a in done} == {"p.run-r-0-2", "p.run-r-1-2"}


def test_retry_begins_a_new_attempt_with_fresh_budgets() -> None:
    failures = FailureRecord((("WORKER_CRASHED", 4),), 4, 10)
    run = make_run(RunState.FAILED, failures=failures, ended_at=NOW - 5)
    assert actions(decide(run, make_world(run))) == ()
    control = changed(decide(wishing(run, verbs.retry(run)), make_world(run)))
    assert control.state is RunState.QUEUED
    assert control.attempt == 2
    assert control.failures == FailureRecord()
    assert control.ended_at is None


def test_verbs_refuse_what_makes_no_sense() -> None:
    ended = make_run(RunState.SUCCEEDED)
    for verb in (verbs.pause, verbs.resume, verbs.retry):
        with pytest.raises(FailedPrecondition):
            verb(ended)
    with pytest.raises(FailedPrecondition):
        verbs.retry(make_run(RunState.RUNNING))
    with pytest.raises(FailedPrecondition):
        verbs.resume(wishing(make_run(RunState.RUNNING), CANCEL))
    assert verbs.cancel(ended) == ended.desired


def test_success_ends_the_run_and_its_pods() -> None:
    run = make_run(RunState.RUNNING)
    world = with_reports(make_world(run), finished_epoch=1, finished_step=60, exits=exits(run, (0, 0), (1, 0)))
    run, done, _ = settle(run, world)
    assert run.control.state is RunState.SUCCEEDED
    assert {a.pod for a in done} == {FIRST, SECOND}


def test_finish_of_an_older_epoch_is_no_success() -> None:
    run = make_run(RunState.RUNNING, epoch=2, registered_epoch=2)
    world = with_reports(make_world(run), finished_epoch=1, finished_step=60)
    assert actions(decide(run, world)) == ()


def test_time_is_booked_under_the_state_that_was_left() -> None:
    run = make_run(RunState.RUNNING)
    control = changed(decide(run, with_reports(make_world(run), exits=exits(run, (1, -9)))))
    assert control.time.stepping == 100.0
    assert control.time.until == NOW
