"""Checks in pairs: nobody is blamed after one round; slow steps, slow ranks and known incidents."""

from __future__ import annotations

from dataclasses import replace

import pytest
from longhaul_training.domain import causes
from longhaul_training.domain.actions import AccuseNode, PrepareEpoch, StartEpoch
from longhaul_training.domain.checkup_record import AccusedNode, Checkup, CheckupPurpose, Finding, NodeReport
from longhaul_training.domain.checkups import judge, pair_up, second_round
from longhaul_training.domain.decide import decide
from longhaul_training.domain.forecasts import forecast_error
from longhaul_training.domain.observations import AgentView, PodPhase, StragglerView, WorkerView, World
from longhaul_training.domain.pace import Pace, add_step, repeated_documents, slowdown, slowing_loader
from longhaul_training.domain.reports import Suspicion
from longhaul_training.domain.states import Forecast, Run, RunState, StopPurpose
from longhaul_training.domain.stragglers import StragglerWatch
from situations import NOW, actions, changed, exits, make_run, make_world, settle, with_pod, with_reports


def report(run: Run, index: int, epoch: int, tflops: float, bandwidth: float = 10.0) -> NodeReport:
    slot = next(slot for slot in run.control.slots if slot.index == index)
    findings = (
        Finding(slot.node, "gemm", True, f"{tflops} TFLOPS", tflops),
        Finding(slot.node, "all_reduce", True, f"{bandwidth} GB/s", bandwidth),
    )
    return NodeReport(run.pod_name(slot), epoch, 0, "H100", findings)


def checking(pods: int = 4) -> tuple[Run, World]:
    run = make_run(RunState.RECOVERING, pods=pods, epoch=5, registered_epoch=5)
    checkup = Checkup(CheckupPurpose.DIAGNOSIS, 1, pair_up(range(pods)), NOW - 1, why="steps take 30% more")
    run = replace(run, control=replace(run.control, checkup=checkup))
    return run, make_world(run)


def test_pairs_and_second_partners() -> None:
    assert pair_up([0, 1, 2, 3, 4]) == ((0, 1), (2, 3, 4))
    assert pair_up([7]) == ((7,),)
    assert second_round([2, 3], [0, 1], [(0, 1), (2, 3)]) == ((2, 0), (3, 1))
    assert second_round([2, 3], [], [(2, 3)]) == ((2,), (3,))


def test_each_group_gets_a_rendezvous_of_its_own_and_then_its_workers() -> None:
    run, world = checking()
    fresh = {name: AgentView(name, True, 0.1, epoch=4, ready_epoch=4) for name in world.agents}
    asked = actions(decide(run, replace(world, agents=fresh)))
    assert [(a.pod, a.bind_rendezvous) for a in asked if isinstance(a, PrepareEpoch)] == [
        ("p.run-r-0-1", True), ("p.run-r-1-1", False), ("p.run-r-2-1", True), ("p.run-r-3-1", False),
    ]  # fmt: skip
    ready = {
        name: AgentView(name, True, 0.1, epoch=5, ready_epoch=5, rendezvous_address=f"{name}:1")
        for name in world.agents
    }
    started = [a for a in actions(decide(run, replace(world, agents=ready))) if isinstance(a, StartEpoch)]
    assert [(a.pod, a.ranks, a.rendezvous_address, a.world_size, a.program) for a in started][2:] == [
        ("p.run-r-2-1", (0,), "p.run-r-2-1:1", 2, "check"),
        ("p.run-r-3-1", (1,), "p.run-r-2-1:1", 2, "check"),
    ]


def test_slow_node_is_blamed_only_after_a_second_round_with_another_partner() -> None:
    run, world = checking()
    first = tuple(report(run, n, 5, 100.0 if n == 3 else 700.0) for n in range(4))
    suspected = changed(decide(run, with_reports(world, node_reports=first)))
    assert suspected.checkup is not None
    assert suspected.checkup.round == 2
    assert suspected.checkup.groups == ((3, 0),)
    assert suspected.epoch == 6
    again = replace(run, control=replace(suspected, registered_epoch=6))
    second = (*first, report(run, 3, 6, 100.0), report(run, 0, 6, 700.0))
    decision = decide(again, with_reports(world, node_reports=second))
    control = changed(decision)
    incident = control.incidents[-1]
    assert (incident.cause, incident.node) == (causes.NODE_FAULTY.name, "node-3")
    assert [slot.node for slot in control.slots] == ["node-0", "node-1", "node-2", ""]
    assert [a.node for a in control.accusations] == ["node-3"]
    assert control.accused == (AccusedNode("node-3", NOW),)
    accused = replace(again, control=control)
    assert any(isinstance(a, AccuseNode) and a.node == "node-3" for a in settle(accused, make_world(accused))[1])


def test_node_that_passes_the_second_round_is_not_blamed() -> None:
    run, world = checking()
    first = tuple(report(run, n, 5, 700.0, bandwidth=1.0 if n > 1 else 10.0) for n in range(4))
    suspected = changed(decide(run, with_reports(world, node_reports=first)))
    assert suspected.checkup is not None
    assert suspected.checkup.suspects == (2, 3)
    again = replace(run, control=replace(suspected, registered_epoch=6))
    fine = tuple(report(run, n, 6, 700.0) for n in range(4))
    control = changed(decide(again, with_reports(world, node_reports=fine)))
    assert control.checkup is None
    assert control.accusations == ()
    assert control.epoch == 7


def test_check_that_was_killed_moves_the_pod_but_accuses_nobody() -> None:
    run, world = checking(pods=1)
    killed = with_reports(world, exits=exits(run, (0, -9), at=NOW - 20))
    suspected = changed(decide(run, killed))
    again = replace(run, control=replace(suspected, registered_epoch=6))
    control = changed(decide(again, with_reports(world, exits=exits(again, (0, -9), at=NOW - 20))))
    assert control.incidents[-1].cause == causes.NODE_FAULTY.name
    assert control.accusations == ()


def test_findings_are_compared_with_the_runs_own_median() -> None:
    run, _ = checking()
    nodes = {slot.index: slot.node for slot in run.control.slots}
    reports = {n: (report(run, n, 5, 650.0 if n == 1 else 700.0),) for n in range(4)}
    assert judge(Checkup(CheckupPurpose.PREFLIGHT, 1, pair_up(range(4)), NOW), nodes, reports).failed == {}
    reports[1] = (report(run, 1, 5, 600.0),)
    failed = judge(Checkup(CheckupPurpose.PREFLIGHT, 1, pair_up(range(4)), NOW), nodes, reports).failed
    assert "86% of the run's median" in failed[1]


def test_full_preflight_checks_in_pairs_before_any_rank_is_given() -> None:
    run = make_run(RunState.PREFLIGHT)
    run = replace(run, spec=replace(run.spec, full_preflight=True))
    control = changed(decide(run, make_world(run)))
    assert control.state is RunState.PREFLIGHT
    assert control.checkup is not None
    assert control.checkup.groups == ((0, 1),)


def blocks(waits: list[float], compute: float = 1.0, share: float = 0.0) -> Pace:
    pace, step = Pace(), 0
    for wait in waits:
        for _ in range(16):
            step += 1
            pace = add_step(pace, step, NOW - 1000 + step, compute + wait, wait, share)
    return pace


def test_loader_that_slows_with_the_step_count_is_named() -> None:
    growing = blocks([0.01 + 0.05 * n for n in range(16)])
    found = slowing_loader(growing)
    assert found is not None
    run = make_run(RunState.RUNNING)
    world = with_reports(make_world(run), pace=growing)
    run, _, _ = settle(run, world)
    assert run.control.noticed[0] == "LOADER_SLOWS_WITH_STEPS"
    assert run.control.stopping is None, "no node is checked for what the loader explains"
    assert slowing_loader(blocks([0.3] * 16)) is None
    assert slowing_loader(blocks([0.01, 0.012] * 8)) is None


def test_consecutive_chunks_of_one_document_are_named() -> None:
    run = make_run(RunState.RUNNING)
    pace = blocks([0.0] * 6, share=0.8)
    assert repeated_documents(pace) == pytest.approx(0.8)
    run, _, happened = settle(run, with_reports(make_world(run), pace=pace))
    assert "CONSECUTIVE_CHUNKS_OF_ONE_DOCUMENT" in run.control.noticed
    assert happened == ["ANOMALY"]
    assert repeated_documents(blocks([0.0] * 6, share=0.01)) == 0.0


def test_identical_shards_are_named_by_the_workers_last_words() -> None:
    said = "FailedPrecondition: Step-0 gate: shards start equal on several ranks: layers.0.attention.query"
    assert causes.worker_cause(83, said) is causes.IDENTICAL_SHARDS
    assert causes.worker_cause(83, "replicas differ between ranks") is causes.GATE_FAILED


def slow(share: float) -> Pace:
    pace = blocks([0.0] * 10)
    for step in range(161, 161 + 32):
        pace = add_step(pace, step, NOW - 400 + step - 161, 1.0 + share, 0.0, 0.0)
    return pace


def test_drop_that_lasts_is_told_and_a_large_one_is_diagnosed() -> None:
    run = make_run(RunState.RUNNING)
    small, _, happened = settle(run, with_reports(make_world(run), pace=slow(0.1)))
    assert "THROUGHPUT_DROP" in small.control.noticed
    assert happened == ["ANOMALY"]
    large, _, happened = settle(run, with_reports(make_world(run), pace=slow(0.4)))
    assert large.control.stopping is not None
    assert large.control.stopping.purpose is StopPurpose.DIAGNOSE
    brief = with_reports(make_world(run), pace=replace(slow(0.4), slow_since=NOW - 10))
    assert settle(run, brief)[0].control.noticed == ()
    assert slowdown(slow(0.02), 0.05) is None


def test_straggler_leads_to_checks_after_a_checkpoint() -> None:
    run = make_run(RunState.RUNNING)
    straggler = StragglerView(1, "p.run-r-1-1", 0.5, 90.0)
    run, _, happened = settle(run, make_world(run, straggler=straggler))
    assert happened == ["SLOW"]
    world = with_reports(make_world(run), exits=exits(run, (0, 82), (1, 82)))
    control = changed(decide(run, world))
    assert control.checkup is not None
    assert control.checkup.purpose is CheckupPurpose.DIAGNOSIS
    soon = replace(make_run(RunState.RUNNING), control=replace(run.control, stopping=None, diagnosed_at=NOW - 60))
    assert settle(soon, make_world(soon, straggler=straggler))[0].control.stopping is None


def test_rank_that_is_slow_at_its_own_work_is_found_among_its_peers() -> None:
    run = make_run(RunState.RUNNING, pods=3)
    watch = StragglerWatch()
    own = (0.1, 0.1, 0.2)
    agents = {
        run.pod_name(slot): AgentView(
            run.pod_name(slot), True, 0.1, epoch=1, workers=(WorkerView(n, "stepping", 4, own_seconds=own[n]),)
        )
        for n, slot in enumerate(run.members)
    }
    assert watch.observe(run, agents, 10.0, 0.7) == StragglerView(2, "p.run-r-2-1", 0.5, 0.0)
    later = watch.observe(run, agents, 80.0, 0.7)
    assert later is not None
    assert later.seconds == 70.0
    assert watch.observe(run, agents, 90.0, 0.4) is None
    assert watch.observe(run, agents, 95.0, 0.7) == StragglerView(2, "p.run-r-2-1", 0.5, 0.0)


def test_error_of_earlier_etas_is_relative_to_the_time_that_was_left() -> None:
    assert forecast_error([Forecast(0.0, 120.0), Forecast(50.0, 100.0)], 100.0) == pytest.approx(0.1)
    assert forecast_error([], 100.0) == 0.0


def test_doubt_of_the_workers_becomes_a_diagnosis_before_they_start_again() -> None:
    run = make_run(RunState.RUNNING, pods=4)
    suspicion = Suspicion(1, "RESULT_DIFFERS", "Step 41 gave loss nan, then 2.5")
    ended = exits(run, *((rank, 75) for rank in range(4)))
    world = with_reports(make_world(run), exits=ended, suspicion=suspicion)
    control = changed(decide(run, world))
    assert control.incidents[-1].cause == causes.RESULT_DIFFERS.name
    recovering = replace(run, control=control)
    checked = changed(decide(recovering, world))
    assert checked.checkup is not None
    assert (checked.checkup.groups, checked.checkup.why) == (((0, 1), (2, 3)), suspicion.message)
    assert checked.epoch == control.epoch + 1

    checking = replace(recovering, control=replace(checked, registered_epoch=checked.epoch))
    well = tuple(report(run, n, checked.epoch, 700.0) for n in range(4))
    cleared = changed(decide(checking, with_reports(world, node_reports=well)))
    assert (cleared.checkup, cleared.diagnosed_epoch) == (None, checked.epoch)
    again = replace(run, control=replace(cleared, registered_epoch=cleared.epoch))
    assert not any("DIAGNOSIS" in event for event in settle(again, world)[2]), "the same doubt is not looked at twice"


def test_doubt_outlives_a_fault_in_the_middle_of_the_diagnosis() -> None:
    run, world = checking()
    suspicion = Suspicion(3, "REPLICAS_DIFFER", "Replicas differ between ranks: a")
    world = with_reports(world, suspicion=suspicion)
    broken = with_pod(world, run.pod_name(run.control.slots[0]), phase=PodPhase.FAILED, reason="Error")
    control = changed(decide(run, broken))
    assert (control.checkup, control.state) == (None, RunState.RECOVERING)
    slots = tuple(replace(slot, pod_uid=f"uid-{slot.index}", joined=True) for slot in control.slots)
    again = replace(run, control=replace(control, slots=slots, backoff_until=0.0))
    assert "DIAGNOSIS_STARTED" in settle(again, with_reports(make_world(again), suspicion=suspicion))[2]


def test_node_that_takes_the_place_of_one_which_failed_its_preflight_is_checked_too() -> None:
    run = make_run(RunState.PREFLIGHT, pods=2, epoch=2, registered_epoch=2)
    checkup = Checkup(CheckupPurpose.PREFLIGHT, 2, ((1, 0),), NOW - 1, suspects=(1,), why="before the first step")
    run = replace(run, control=replace(run.control, checkup=checkup))
    found = (report(run, 0, 2, 700.0), report(run, 1, 2, 100.0))
    control = changed(decide(run, with_reports(make_world(run), node_reports=found)))
    assert (control.state, control.preflight_again, control.checkup) == (RunState.RECOVERING, True, None)

    slots = tuple(
        replace(slot, node=f"node-{2 + i}", pod_uid=f"u{i}", joined=True) for i, slot in enumerate(control.slots)
    )
    replaced = replace(run, control=replace(control, slots=slots, registered_epoch=control.epoch))
    settled, _, happened = settle(replaced, make_world(replaced))
    assert "PREFLIGHT_STARTED" in happened
    assert settled.control.checkup is not None
    assert (settled.control.checkup.groups, settled.control.preflight_again) == (((0, 1),), False)

    well = tuple(report(settled, n, settled.control.epoch, 700.0) for n in range(2))
    registered = replace(settled, control=replace(settled.control, registered_epoch=settled.control.epoch))
    passed = changed(decide(registered, with_reports(make_world(registered), node_reports=well)))
    assert (passed.state, passed.checkup) == (RunState.RENDEZVOUS, None)
    assert {line.node for line in passed.checklist} == {"node-2", "node-3"}


def test_doubt_outlives_a_pause_as_a_full_preflight() -> None:
    run = make_run(RunState.PREFLIGHT, pods=2, epoch=2, registered_epoch=2)
    agents = {name: AgentView(name, True, 0.1) for name in make_world(run).agents}
    world = with_reports(make_world(run, agents=agents), suspicion=Suspicion(1, "RESULT_DIFFERS", "Step 41 differed"))
    control = changed(decide(run, world))
    assert control.checkup is not None
    assert (control.checkup.purpose, control.state) == (CheckupPurpose.PREFLIGHT, RunState.PREFLIGHT)
    checking = replace(run, control=replace(control, registered_epoch=control.epoch))
    well = tuple(report(run, n, control.epoch, 700.0) for n in range(2))
    cleared = changed(decide(checking, with_reports(world, node_reports=well)))
    assert (cleared.state, cleared.diagnosed_epoch) == (RunState.RENDEZVOUS, control.epoch)
