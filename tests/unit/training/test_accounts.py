"""Reports, goodput, progress, admission, drains, experiments: the small rules."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from longhaul_core.errors import InvalidArgument, ResourceExhausted
from longhaul_training.domain.admission import ProjectLimits, Usage, admission_order, check_quota, quota_problem
from longhaul_training.domain.drains import finished_drains
from longhaul_training.domain.experiments import (
    Arm,
    ExperimentState,
    Variant,
    apply_variant,
    check_variants,
    compare,
    experiment_state,
    winner,
)
from longhaul_training.domain.goodput import WorkerTime, ledger, spend
from longhaul_training.domain.observations import DrainView, NodeView
from longhaul_training.domain.placement import Claim
from longhaul_training.domain.progress import run_progress
from longhaul_training.domain.reports import (
    Reports,
    StepRow,
    WorkerExit,
    add_exit,
    add_finish,
    add_restore,
    add_steps,
    is_known,
)
from longhaul_training.domain.states import RunState, TimeSpent
from pydantic import TypeAdapter
from situations import NOW, make_run


def row(step: int, epoch: int = 1, **changes: float) -> StepRow:
    return replace(StepRow(step, epoch, 10.0 * step, 4.0 - step / 100, 512 * step, 100.0, 0.5), **changes)


def test_replay_after_a_resume_counts_as_replay_and_moves_the_step_back() -> None:
    reports = add_steps(Reports(), [row(s) for s in (1, 2, 3, 4)])
    reports = add_steps(reports, [row(3, epoch=2), row(4, epoch=2), row(5, epoch=2)])
    assert (reports.step, reports.step_epoch, reports.high_step) == (5, 2, 5)
    assert reports.replay_seconds == 1.0
    assert reports.tokens == 512 * 5


def test_steps_made_again_after_a_rewind_replace_the_ones_that_were_thrown_away() -> None:
    reports = add_steps(Reports(), [row(s) for s in (1, 2, 3, 4)])
    again = [row(3, position=6), row(4, position=7)]
    assert not any(is_known(reports, one) for one in again)
    reports = add_steps(reports, again)
    assert (reports.step, reports.position, reports.high_step) == (4, 7, 4)
    assert reports.replay_seconds == 1.0
    assert is_known(reports, again[0])
    assert not is_known(reports, row(5, position=8))


def test_reports_stored_before_positions_stand_where_their_step_says() -> None:
    stored = TypeAdapter(Reports).validate_python({"step": 7, "step_epoch": 1})
    assert stored.position == 7


def test_late_row_of_an_older_epoch_does_not_move_the_step() -> None:
    reports = add_steps(Reports(), [row(1), row(2), row(1, epoch=2)])
    late = add_steps(reports, [row(3)])
    assert (late.step, late.step_epoch, late.high_step) == (1, 2, 3)


def test_loss_that_is_no_number_keeps_the_last_one() -> None:
    reports = add_steps(Reports(), [row(1), row(2, loss=math.nan, validation_loss=3.5)])
    assert reports.loss == row(1).loss
    assert reports.validation_loss == 3.5
    assert reports.step == 2


def test_exits_of_a_newer_epoch_replace_older_ones_and_repetitions_change_nothing() -> None:
    first, second = WorkerExit("p", 1, 0, -9, 1.0), WorkerExit("p", 2, 1, 75, 2.0)
    reports = add_exit(add_exit(Reports(), first), second)
    assert reports.exits == (second,)
    assert add_exit(reports, second) == reports
    assert add_exit(reports, first).exits == (second, first)


def test_finish_and_restore_never_go_back_an_epoch() -> None:
    reports = add_restore(add_finish(Reports(), 3, 60), 3, 5.0, 1.0)
    assert add_finish(reports, 2, 50) == reports
    assert add_restore(reports, 2, 9.0, 9.0) == reports


def test_ledger_splits_the_time_and_its_parts_add_up() -> None:
    time = TimeSpent(until=0.0)
    for state, until in (
        (RunState.QUEUED, 5.0),
        (RunState.ADMITTED, 8.0),
        (RunState.RUNNING, 108.0),
        (RunState.RECOVERING, 118.0),
        (RunState.PAUSED, 130.0),
    ):
        time = spend(time, state, until)
    times = ledger(time, RunState.RUNNING, WorkerTime(data_wait=4.0, checkpoint=6.0, replay=10.0), 230.0)
    assert (times.queued, times.startup, times.recovery, times.paused) == (5.0, 3.0, 10.0, 12.0)
    assert times.productive == 200.0 - 20.0
    assert times.goodput == pytest.approx(180.0 / 213.0)
    assert spend(time, RunState.RUNNING, 100.0).stepping == time.stepping


def test_progress_estimates_from_the_median_and_the_goodput() -> None:
    reports = add_steps(Reports(), [row(s) for s in range(1, 11)])
    progress = run_progress(reports, 100, goodput=0.9)
    assert (progress.done, progress.fraction, progress.steps_per_second) == (10, 0.1, 2.0)
    assert progress.eta_seconds == pytest.approx(90 * 0.5 / 0.9)
    assert run_progress(Reports(), 100, 0.0).eta_seconds is None
    assert run_progress(add_finish(reports, 1, 100), 100, 1.0).fraction == 1.0


def test_order_of_admission_is_priority_then_age() -> None:
    old, new = (replace(make_run(), id=name, created_at=at) for name, at in (("old", 1.0), ("new", 2.0)))
    urgent = replace(make_run(), id="urgent", created_at=3.0, project="vip")
    order = admission_order([new, urgent, old], Usage({"vip": ProjectLimits(priority=5)}), NOW)
    assert [run.id for run in order] == ["urgent", "old", "new"]


def test_quota_holds_a_run_back_and_says_why() -> None:
    run, limits = make_run(), {"p": ProjectLimits(gpu_quota=3)}
    assert quota_problem(run, Usage(limits, {"p": 1})) == ""
    assert "uses 2 of its 3" in quota_problem(run, Usage(limits, {"p": 2}))
    with pytest.raises(ResourceExhausted):
        check_quota(limits["p"], 4, "p")


def test_drain_is_done_when_nothing_is_left_on_the_node() -> None:
    drain = DrainView("s", True, "XID_79", 0.0)
    nodes = {
        "a": NodeView("a", True, False, drain),
        "b": NodeView("b", True, False, drain),
        "c": NodeView("c", True, True),
    }
    claims = [Claim("run-r-0-1", "a", 1), Claim("task-burn-1", "b", 1)]
    done = finished_drains(nodes, claims, exempt_pods=["task-burn-1"]).acknowledgements
    assert [(action.node, action.session) for action in done] == [("b", "s")]


CONFIG = {"optimizer": {"learning_rate": 0.1, "beta1": 0.9}, "steps": 10}


def test_variant_changes_one_value() -> None:
    assert apply_variant(CONFIG, Variant("v", "optimizer.learning_rate", 0.2)) == {
        "optimizer": {"learning_rate": 0.2, "beta1": 0.9},
        "steps": 10,
    }
    assert CONFIG["optimizer"]["learning_rate"] == 0.1


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ("optimizer.lr", 1, "not a path"),
        ("optimizer", {}, "whole section"),
        ("steps", 10, "in the baseline already"),
        ("steps.more", 1, "not a path"),
    ],
)
def test_variant_that_does_not_change_exactly_one_value_is_refused(path: str, value: object, what: str) -> None:
    with pytest.raises(InvalidArgument, match=what):
        apply_variant(CONFIG, Variant("v", path, value))


def test_variant_ids_are_unique_and_not_the_baseline() -> None:
    for ids in (("a", "a"), ("baseline",)):
        with pytest.raises(InvalidArgument):
            check_variants([Variant(name, "steps", 1) for name in ids])


def test_arms_are_compared_at_the_last_step_that_both_have() -> None:
    baseline = Arm("baseline", {10: 4.0, 20: 3.0, 30: 2.0})
    arms = [baseline, Arm("good", {10: 3.9, 20: 2.9}), Arm("same", {30: 1.999}), Arm("none", {})]
    comparisons = compare(baseline, arms)
    assert [(c.id, c.step) for c in comparisons] == [("baseline", 30), ("good", 20), ("same", 30)]
    assert comparisons[1].difference == pytest.approx(-0.1)
    assert winner(baseline, comparisons, 0.0025) == "good"
    assert winner(baseline, comparisons, 0.1) == ""


def test_state_of_an_experiment_follows_its_runs() -> None:
    run, done, bad = RunState.RUNNING, RunState.SUCCEEDED, RunState.FAILED
    queued = RunState.QUEUED
    assert experiment_state({"baseline": queued, "v": queued}, False) is ExperimentState.QUEUED
    assert experiment_state({"baseline": done, "v": run}, False) is ExperimentState.RUNNING
    assert experiment_state({"baseline": done, "v": bad}, False) is ExperimentState.SUCCEEDED
    assert experiment_state({"baseline": bad, "v": done}, False) is ExperimentState.FAILED
    assert experiment_state({"baseline": done, "v": run}, True) is ExperimentState.CANCELLING
    assert experiment_state({"baseline": done, "v": RunState.CANCELLED}, True) is ExperimentState.CANCELLED
