from __future__ import annotations

from dataclasses import replace

import pytest
from longhaul_training.domain.actions import CreatePod, RegisterEpoch, StopAfterCheckpoint
from longhaul_training.domain.decide import decide
from longhaul_training.domain.observations import DrainView, PodPhase, WorkerView
from longhaul_training.domain.placement import Capacity
from longhaul_training.domain.states import FailureRecord, RecoveryAction, RunState, Stopping, StopPurpose
from situations import (
    NOW,
    actions,
    changed,
    exits,
    make_agent,
    make_run,
    make_world,
    settle,
    with_agent,
    with_node,
    with_pod,
    with_reports,
    without_pod,
)

FIRST, SECOND = "p.run-r-0-1", "p.run-r-1-1"


@pytest.mark.parametrize(
    ("codes", "cause", "action"),
    [
        (((1, -9),), "WORKER_KILLED", RecoveryAction.PROCESS),
        (((0, 75), (1, -9)), "WORKER_KILLED", RecoveryAction.PROCESS),
        (((1, -11),), "WORKER_CRASHED", RecoveryAction.PROCESS),
        (((1, 70),), "WORKER_CRASHED", RecoveryAction.PROCESS),
        (((0, 75), (1, 75)), "PEER_FAILED", RecoveryAction.PROCESS),
        (((0, 81), (1, 75)), "ANOMALY_STOP", RecoveryAction.ROLLBACK),
        (((0, 82), (1, 82)), "WORKER_PREEMPTED", RecoveryAction.PROCESS),
    ],
)
def test_ended_workers_are_restarted_in_a_new_epoch(codes: tuple, cause: str, action: RecoveryAction) -> None:
    run = make_run(RunState.RUNNING)
    world = with_reports(make_world(run), exits=exits(run, *codes))
    control = changed(decide(run, world))
    assert control.state is RunState.RECOVERING
    assert control.epoch == 2
    assert control.recovery is action
    assert control.slots == run.control.slots
    incident = control.incidents[-1]
    assert (incident.cause, incident.fault_step, incident.detected_at - incident.fault_at) == (cause, 41, 2.0)


@pytest.mark.parametrize(("code", "cause"), [(64, "CONFIGURATION_ERROR"), (80, "OUT_OF_MEMORY"), (83, "GATE_FAILED")])
def test_causes_that_no_restart_cures_fail_the_run_with_advice(code: int, cause: str) -> None:
    run = make_run(RunState.RUNNING)
    world = with_reports(make_world(run), exits=exits(run, (0, 75), (1, code)))
    run, done, events = settle(run, world)
    assert run.control.state is RunState.FAILED
    assert run.control.reason.code == cause
    assert run.control.reason.action
    assert {a.pod for a in done} == {FIRST, SECOND}
    assert events == ["STATE_CHANGED"]


def test_peer_that_failed_just_now_waits_for_what_it_failed_of() -> None:
    run = make_run(RunState.RUNNING)
    world = with_reports(make_world(run), exits=exits(run, (0, 75), at=NOW - 0.1))
    assert actions(decide(run, world)) == ()


def test_exits_of_older_epochs_are_history() -> None:
    run = make_run(RunState.RUNNING, epoch=3, registered_epoch=3)
    world = with_reports(make_world(run), exits=exits(run, (1, -9), epoch=2))
    assert actions(decide(run, world)) == ()


def test_failed_pod_is_replaced_on_its_node_under_a_new_name() -> None:
    run = make_run(RunState.RUNNING)
    world = with_pod(make_world(run), SECOND, phase=PodPhase.FAILED, reason="Error", exit_code=137)
    run, done, _ = settle(run, world)
    assert run.control.recovery is RecoveryAction.POD
    assert run.control.slots[1].incarnation == 2
    assert run.control.slots[1].node == "node-1"
    assert {type(a).__name__ for a in done} == {"DeletePod", "RegisterEpoch", "CreatePod"}
    assert [a.pod for a in done if isinstance(a, CreatePod)] == ["p.run-r-1-2"]


def test_new_pod_waits_until_the_old_one_has_left_its_node() -> None:
    run = make_run(RunState.RUNNING)
    world = with_agent(make_world(run), SECOND, silent_seconds=20.0)
    run, done, _ = settle(run, world)
    assert run.control.reason.code == "AGENT_SILENT"
    assert [type(a).__name__ for a in done] == ["DeletePod", "RegisterEpoch"]


def test_vanished_pod_is_replaced() -> None:
    run = make_run(RunState.RUNNING)
    control = changed(decide(run, without_pod(make_world(run), SECOND)))
    assert control.reason.code == "POD_GONE"
    assert control.slots[1].incarnation == 2


def test_out_of_memory_of_the_pod_fails_the_run() -> None:
    run = make_run(RunState.RUNNING)
    world = with_pod(make_world(run), SECOND, phase=PodPhase.FAILED, reason="OOMKilled", exit_code=137)
    control = changed(decide(run, world))
    assert control.state is RunState.FAILED
    assert "micro_batch_size" in control.reason.action


def test_dead_node_with_closed_stream_is_left_at_once() -> None:
    run = make_run(RunState.RUNNING)
    world = with_node(make_world(run), "node-1", ready=False)
    world = with_pod(world, SECOND, phase=PodPhase.UNKNOWN)
    world = with_agent(world, SECOND, connected=False, closed_seconds=3.0, silent_seconds=3.0)
    run, done, _ = settle(run, world)
    assert run.control.recovery is RecoveryAction.NODE
    assert run.control.slots[1].node in ("node-2", "node-3")
    assert [a.pod for a in done if isinstance(a, CreatePod)] == ["p.run-r-1-2"]


def test_node_that_is_not_ready_but_whose_agent_speaks_is_left_alone() -> None:
    run = make_run(RunState.RUNNING)
    world = with_pod(with_node(make_world(run), "node-1", ready=False), SECOND, phase=PodPhase.UNKNOWN)
    assert actions(decide(run, world)) == ()


def test_silence_first_raises_suspicion_then_costs_the_pod() -> None:
    run = make_run(RunState.RUNNING)
    world = make_world(run)
    suspect = changed(decide(run, with_agent(world, SECOND, silent_seconds=6.0)))
    assert suspect.state is RunState.SUSPECT
    run = replace(run, control=suspect)
    assert actions(decide(run, with_agent(world, SECOND, silent_seconds=14.0))) == ()
    assert changed(decide(run, world)).state is RunState.RUNNING
    assert changed(decide(run, with_agent(world, SECOND, silent_seconds=15.5))).state is RunState.RECOVERING


def test_closed_stream_alone_is_only_suspicious() -> None:
    run = make_run(RunState.RUNNING)
    world = with_agent(make_world(run), SECOND, connected=False, closed_seconds=3.0, silent_seconds=3.0)
    assert changed(decide(run, world)).state is RunState.SUSPECT


def test_two_lost_pods_are_one_incident_with_both_replaced() -> None:
    run = make_run(RunState.RUNNING)
    world = make_world(run)
    for name in (FIRST, SECOND):
        world = with_pod(world, name, phase=PodPhase.FAILED, reason="Error", exit_code=137)
    control = changed(decide(run, world))
    assert [slot.incarnation for slot in control.slots] == [2, 2]
    assert len(control.incidents) == 1


def test_without_a_spare_the_gang_keeps_its_places_and_waits() -> None:
    run = make_run(RunState.RUNNING)
    world = with_pod(make_world(run), SECOND, phase=PodPhase.FAILED, reason="NodeLost")
    world = replace(with_node(world, "node-1", ready=False), capacity=Capacity({}))
    run, done, _ = settle(run, world)
    assert run.control.state is RunState.RECOVERING
    assert run.control.reason.code == "NO_SPARE"
    assert run.control.slots[0].node == "node-0"
    assert [type(a).__name__ for a in done] == ["DeletePod"]
    back = replace(with_node(world, "node-1", ready=True), pods={FIRST: world.pods[FIRST]})
    again, done, _ = settle(run, replace(back, capacity=Capacity({"node-1": 1})))
    assert again.control.slots[1].node == "node-1"
    assert any(isinstance(a, CreatePod) for a in done)


def test_second_fault_during_recovery_widens_the_incident_and_raises_the_epoch() -> None:
    run = make_run(RunState.RUNNING)
    world = with_reports(make_world(run), exits=exits(run, (1, -9)))
    run, _, _ = settle(run, world)
    world = with_pod(world, SECOND, phase=PodPhase.FAILED, reason="Error", exit_code=137)
    control = changed(decide(run, world))
    assert control.epoch == 3
    assert len(control.incidents) == 1
    assert control.incidents[0].action is RecoveryAction.POD
    assert control.incidents[0].cause == "WORKER_KILLED"


def test_failures_without_progress_wait_longer_and_take_broader_action_until_the_budget_ends() -> None:
    run = make_run(RunState.RUNNING)
    seen, waits = [], []
    for _ in range(9):
        world = with_reports(make_world(run), exits=exits(run, (1, -9)))
        control = changed(decide(run, world))
        if control.state is RunState.FAILED:
            break
        seen.append(control.recovery)
        waits.append(control.backoff_until - NOW)
        slots = tuple(replace(s, node=s.node or "node-2", pod_uid="u", joined=True) for s in control.slots)
        run = replace(run, control=replace(control, state=RunState.RUNNING, slots=slots))
    assert seen[:2] == [RecoveryAction.PROCESS] * 2
    assert seen[2:4] == [RecoveryAction.POD] * 2
    assert seen[4:] == [RecoveryAction.NODE] * 4
    assert waits[:4] == [0.0, 1.0, 2.0, 4.0]
    assert control.state is RunState.FAILED
    assert "failure 9 of this cause" in control.reason.message


def test_progress_between_failures_makes_each_the_first() -> None:
    run = make_run(RunState.RUNNING, failures=FailureRecord((("WORKER_KILLED", 50),), 1, last_step=30))
    world = with_reports(make_world(run), exits=exits(run, (1, -9)))
    control = changed(decide(run, world))
    assert control.recovery is RecoveryAction.PROCESS
    assert control.backoff_until == NOW
    assert control.failures.count("WORKER_KILLED") == 51


def test_recovery_waits_out_its_back_off() -> None:
    run = make_run(RunState.RECOVERING, epoch=2, backoff_until=NOW + 3)
    world = make_world(run)
    assert actions(decide(run, world)) == ()
    assert actions(decide(run, replace(world, now=NOW + 3)))[0] == RegisterEpoch(2)


def test_hang_is_found_when_no_worker_moves() -> None:
    run = make_run(RunState.RUNNING)
    stuck = {
        name: make_agent(run, name, workers=(WorkerView(i, "stepping", 40 - i, silent_seconds=61.0),))
        for i, name in enumerate((FIRST, SECOND))
    }
    control = changed(decide(run, make_world(run, agents=stuck)))
    assert control.reason.code == "HANG"
    assert "rank 1 is last, at step 39" in control.reason.message
    slow = with_reports(make_world(run, agents=stuck), recent_step_seconds=(40.0, 40.0))
    assert actions(decide(run, slow)) == ()


def test_long_checkpoint_is_no_hang() -> None:
    run = make_run(RunState.RUNNING)
    busy = {
        name: make_agent(run, name, workers=(WorkerView(i, "checkpointing", 40, silent_seconds=300.0),))
        for i, name in enumerate((FIRST, SECOND))
    }
    assert actions(decide(run, make_world(run, agents=busy))) == ()


def test_epoch_that_never_steps_is_started_again() -> None:
    run = make_run(RunState.RENDEZVOUS, epoch_since=NOW - 700)
    world = with_reports(make_world(run), step_epoch=0)
    stuck = {
        name: make_agent(run, name, workers=(WorkerView(i, "restoring", 0),)) for i, name in enumerate((FIRST, SECOND))
    }
    control = changed(decide(run, replace(world, agents=stuck)))
    assert control.reason.code == "START_TIMEOUT"
    assert control.epoch == 2


def test_run_that_keeps_hanging_gets_new_pods() -> None:
    run = make_run(RunState.RUNNING, failures=FailureRecord((("HANG", 2),), 2, last_step=40))
    stuck = {
        name: make_agent(run, name, workers=(WorkerView(i, "stepping", 40, silent_seconds=61.0),))
        for i, name in enumerate((FIRST, SECOND))
    }
    control = changed(decide(run, make_world(run, agents=stuck)))
    assert control.recovery is RecoveryAction.POD
    assert [(slot.incarnation, slot.node) for slot in control.slots] == [(2, "node-0"), (2, "node-1")]


DRAIN = DrainView("s1", computes=True, cause="XID_79", requested_at=NOW - 1)


def test_drain_of_a_computing_node_asks_for_a_checkpoint_first() -> None:
    run = make_run(RunState.RUNNING)
    world = with_node(make_world(run), "node-1", drain=DRAIN, schedulable=False)
    run, done, events = settle(run, world)
    assert run.control.stopping == Stopping(StopPurpose.DRAIN, 1, NOW)
    assert set(done) == {StopAfterCheckpoint(FIRST, 1, "drain"), StopAfterCheckpoint(SECOND, 1, "drain")}
    assert events == ["DRAIN_STARTED"]

    stopped = with_reports(world, exits=exits(run, (0, 82), (1, 82)))
    control = changed(decide(run, stopped))
    assert control.reason.code == "NODE_QUARANTINED"
    assert control.recovery is RecoveryAction.NODE
    assert [slot.node for slot in control.slots] == ["node-0", ""]
    assert control.stopping is None


def test_drain_that_takes_too_long_is_cut_short() -> None:
    run = make_run(RunState.RUNNING, stopping=Stopping(StopPurpose.DRAIN, 1, NOW - 61))
    world = with_node(make_world(run), "node-1", drain=DRAIN)
    assert changed(decide(run, world)).recovery is RecoveryAction.NODE


def test_drain_of_a_node_that_no_longer_computes_is_left_at_once() -> None:
    run = make_run(RunState.RUNNING)
    world = with_node(make_world(run), "node-1", drain=replace(DRAIN, computes=False))
    control = changed(decide(run, world))
    assert control.state is RunState.RECOVERING
    assert control.slots[1].node == ""


def test_drain_that_is_withdrawn_lets_the_run_go_on_where_it_is() -> None:
    run = make_run(RunState.RUNNING, stopping=Stopping(StopPurpose.DRAIN, 1, NOW - 5))
    stopped = with_reports(make_world(run), exits=exits(run, (0, 82), (1, 82)))
    control = changed(decide(run, stopped))
    assert control.reason.code == "WORKER_PREEMPTED"
    assert control.slots == run.control.slots
    ignored = make_run(RunState.RUNNING, stopping=Stopping(StopPurpose.DRAIN, 1, NOW - 61))
    assert changed(decide(ignored, make_world(ignored))).stopping is None


def test_resumed_run_is_not_late_because_of_its_old_epoch() -> None:
    run = make_run(RunState.ADMITTED, epoch=2, registered_epoch=2, epoch_since=NOW - 9000)
    assert changed(decide(run, make_world(run))).state is RunState.PREFLIGHT


def test_drain_costs_no_budget() -> None:
    run = make_run(RunState.RUNNING, failures=FailureRecord((("NODE_QUARANTINED", 9_000),), 1, last_step=30))
    world = with_node(make_world(run), "node-1", drain=replace(DRAIN, computes=False))
    assert changed(decide(run, world)).state is RunState.RECOVERING


def test_run_that_finished_while_it_was_drained_has_succeeded() -> None:
    run = make_run(RunState.RUNNING, stopping=Stopping(StopPurpose.DRAIN, 1, NOW - 5))
    world = with_node(make_world(run), "node-1", drain=DRAIN)
    world = with_reports(world, finished_epoch=1, finished_step=60, exits=exits(run, (0, 0), (1, 0)))
    assert changed(decide(run, world)).state is RunState.SUCCEEDED


def test_repair_is_over_when_the_interrupted_step_is_made_again() -> None:
    run = make_run(RunState.RUNNING)
    run, _, _ = settle(run, with_reports(make_world(run), exits=exits(run, (1, -9))))
    run = replace(run, control=replace(run.control, registered_epoch=2))
    back = with_reports(make_world(run), step=31, step_epoch=2, restored_epoch=2, restored_at=NOW + 4)
    back = with_reports(replace(back, now=NOW + 5), restore_seconds=1.5)
    run, _, events = settle(run, back)
    assert run.control.state is RunState.RUNNING
    assert run.control.open_incident is not None
    assert events == ["STATE_CHANGED"]
    decision = decide(run, with_reports(replace(back, now=NOW + 9), step=42))
    assert decision.events[0].data["detect_seconds"] == 2.0
    assert decision.events[0].data["restart_seconds"] == 2.5
    assert decision.events[0].data["restore_seconds"] == 1.5
    assert decision.events[0].data["replay_seconds"] == 5.0
    assert changed(decision).open_incident is None
