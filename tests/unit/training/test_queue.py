"""The queue: who goes first, who makes room, what a waiting run lacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longhaul_training.domain.admission import (
    AGING_SECONDS,
    ProjectLimits,
    Queue,
    Usage,
    admission_order,
    choose_victims,
)
from longhaul_training.domain.decide import decide
from longhaul_training.domain.explanation import explain
from longhaul_training.domain.placement import Capacity
from longhaul_training.domain.states import Reason, Run, RunState, StopPurpose
from situations import NOW, changed, exits, make_run, make_world, settle, with_reports


def queued(name: str, project: str = "p", **control: Any) -> Run:
    created = control.pop("created_at", 1.0)
    run = make_run(since=NOW - control.pop("waited", 0.0), **control)
    return replace(run, id=name, uid=name, project=project, created_at=created)


def running(name: str, nodes: tuple[str, ...], **control: Any) -> Run:
    run = make_run(RunState.RUNNING, pods=len(nodes), **control)
    slots = tuple(replace(slot, node=node) for slot, node in zip(run.control.slots, nodes, strict=True))
    return replace(run, id=name, uid=name, control=replace(run.control, slots=slots))


def test_project_that_uses_less_of_its_quota_goes_first() -> None:
    usage = Usage({"a": ProjectLimits(gpu_quota=10), "b": ProjectLimits(gpu_quota=10)}, {"a": 6, "b": 2})
    order = admission_order([queued("1", "a"), queued("2", "b", created_at=2.0)], usage, NOW)
    assert [run.id for run in order] == ["2", "1"]


def test_usage_grows_while_runs_are_admitted_so_that_projects_take_turns() -> None:
    usage = Usage({"a": ProjectLimits(), "b": ProjectLimits()})
    waiting = [queued(f"a{n}", "a", created_at=n) for n in range(3)] + [
        queued(f"b{n}", "b", created_at=9) for n in range(3)
    ]
    order = []
    for run in admission_order(waiting, usage, NOW):
        usage.add(run)
        order.append(run.project)
    assert order == ["a", "b", "a", "b", "a", "b"]


def test_waiting_raises_the_priority_so_that_nothing_starves() -> None:
    old = queued("old", waited=3 * AGING_SECONDS)
    urgent = replace(queued("urgent"), spec=replace(queued("urgent").spec, priority=2))
    assert [run.id for run in admission_order([urgent, old], Usage(), NOW)] == ["old", "urgent"]


def test_run_that_waits_for_nodes_holds_back_those_that_could_take_them() -> None:
    queue = Queue()
    head = queued("head", reason=Reason("NO_CAPACITY", "needs nodes"))
    queue.note(replace(head, spec=replace(head.spec, pool="fast")))
    other = queued("other")
    assert "head is ahead" in queue.problem(other)
    assert "head is ahead" in queue.problem(replace(other, spec=replace(other.spec, pool="fast")))
    assert queue.problem(replace(other, spec=replace(other.spec, pool="slow"))) == ""


def test_run_larger_than_the_cluster_holds_back_nobody_and_says_so() -> None:
    run = queued("huge")
    huge = replace(run, spec=replace(run.spec, pods=9))
    world = make_world(run, capacity=Capacity({"node-0": 1}, {"node-0": ""}, whole={"node-0": 1, "node-1": 1}))
    control = changed(decide(huge, world))
    assert control.reason.code == "CLUSTER_TOO_SMALL"
    assert control.reason.available == 2
    queue = Queue()
    queue.note(replace(huge, control=control))
    assert queue.problem(run) == ""


def test_fewest_youngest_runs_of_lowest_priority_make_room() -> None:
    low_old = running("low-old", ("n0", "n1"), started_at=NOW - 500)
    low_new = running("low-new", ("n2", "n3"), started_at=NOW - 5)
    high = running("high", ("n4", "n5"), admitted_priority=5)
    capacity = Capacity({f"n{n}": 0 for n in range(6)})
    chosen = choose_victims(queued("urgent"), 3, [low_old, low_new, high], capacity)
    assert [run.id for run in chosen] == ["low-new"]
    large = queued("urgent")
    large = replace(large, spec=replace(large.spec, pods=4))
    assert {run.id for run in choose_victims(large, 3, [low_old, low_new, high], capacity)} == {"low-old", "low-new"}


def test_nobody_makes_room_for_a_run_that_would_not_fit_anyway_or_is_not_above() -> None:
    low = running("low", ("n0", "n1"))
    capacity = Capacity({"n0": 0, "n1": 0})
    large = queued("urgent")
    assert choose_victims(replace(large, spec=replace(large.spec, pods=3)), 3, [low], capacity) == ()
    assert choose_victims(large, 0, [low], capacity) == ()


def test_preempted_run_writes_a_checkpoint_and_queues_again() -> None:
    run = make_run(RunState.RUNNING)
    world = make_world(run, preempted_by="projects/p/trainingRuns/urgent")
    run, asked, happened = settle(run, world)
    assert happened == ["PREEMPTION_STARTED"]
    assert run.control.stopping is not None
    assert run.control.stopping.purpose is StopPurpose.PREEMPT
    assert len(asked) == 2
    ended = with_reports(world, exits=exits(run, (0, 82), (1, 82)))
    control = changed(decide(run, ended))
    assert control.state is RunState.QUEUED
    assert control.reason.code == "PREEMPTED"
    assert not any(slot.node for slot in control.slots)


def test_run_that_does_not_step_makes_room_at_once() -> None:
    run = make_run(RunState.RENDEZVOUS)
    assert changed(decide(run, make_world(run, preempted_by="u"))).state is RunState.QUEUED


def test_explanation_names_the_missing_resource_and_how_much() -> None:
    holder = running("holder", ("n0", "n1"))
    limits = {"p": ProjectLimits(gpu_quota=3)}
    blocked = queued("blocked", reason=Reason("QUOTA_IN_USE", "project 'p' uses 2 of its 3 GPU(s)"))
    view = explain(blocked, [holder, blocked], limits, NOW)
    assert [(m.resource, m.needed, m.available) for m in view.missing] == [("quota", 2, 1)]
    lacking = queued("lacking", reason=Reason("NO_CAPACITY", "needs 2 nodes", available=1), created_at=0.5)
    view = explain(lacking, [holder, blocked, lacking], {}, NOW)
    assert [(m.resource, m.needed, m.available) for m in view.missing] == [("nodes", 2, 1)]
    assert view.position == 1
    behind = queued("behind", reason=Reason("BEHIND_IN_QUEUE", "lacking is ahead"), created_at=7.0)
    view = explain(behind, [behind, lacking], {}, NOW)
    assert view.position == 2
    assert view.ahead == (lacking.name,)
    assert view.missing[0].resource == "turn"
    assert explain(holder, [holder], {}, NOW).missing == ()
