"""Evaluations, suites, curves and comparisons as values."""

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from longhaul_core.errors import FailedPrecondition, InvalidArgument
from longhaul_core.ids import check_id
from longhaul_core.tasks import ItemScore, ScoreResult, TaskScore
from longhaul_evaluation.domain.curve import curve, qualities
from longhaul_evaluation.domain.evaluation import (
    CHECKPOINT_GONE,
    Evaluation,
    EvaluationSpec,
    MetricScore,
    Reason,
    Selection,
    State,
    check_selections,
)
from longhaul_evaluation.domain.results import metric_scores, paired_differences
from longhaul_evaluation.domain.suite import Counts, SeenCheckpoint, Suite, SuiteSpec, count

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = EvaluationSpec("projects/p/checkpoints/r-step-00000001-e1", "projects/p/tokenSets/t", (Selection("cloze"),))


def _evaluation(**fields):
    return Evaluation("p", "e", "0123456789abcdef0123456789abcdef", SPEC, **fields)


def _suite(**fields):
    spec = SuiteSpec("projects/p/trainingRuns/r", "projects/p/tokenSets/t", (Selection("cloze"),))
    return Suite("p", "s", replace(spec, every_steps=fields.pop("every_steps", 0)), **fields)


def _score(value, error=0.1, higher=False, chance=None, metric="bits_per_byte"):
    return MetricScore("task", 0, metric, value, error, 10, 5, higher, chance)


def test_attempt_names_its_task_the_same_every_time():
    first = _evaluation().start_attempt(NOW)
    assert first == _evaluation().start_attempt(NOW)
    second = first.fail_attempt(Reason("X", "x"), budget=2, now=NOW).start_attempt(NOW)
    assert first.task != second.task
    assert (second.attempts, second.result_key) == (2, "projects/p/evaluations/e/result-2.json")


def test_task_that_was_never_created_is_named_again():
    started = _evaluation(attempts=1).start_attempt(NOW)
    assert started.without_task().start_attempt(NOW) == started


def test_failure_beyond_the_budget_is_final_and_says_how_often():
    failed = _evaluation(attempts=2).fail_attempt(Reason("X", "broken"), budget=2, now=NOW)
    assert failed.state is State.FAILED
    assert failed.reason.message == "broken (after 2 attempts)"


def test_cancel_of_a_terminal_evaluation_changes_nothing():
    done = _evaluation().succeed((), NOW)
    assert done.request_cancel() == done
    assert _evaluation().request_cancel().follow_task(True, "").state is State.CANCELLING


@pytest.mark.parametrize(
    "tasks",
    [
        (),
        (Selection(""),),
        (Selection("a", few_shot=-1),),
        (Selection("a", limit=-1),),
        (Selection("a"), Selection("a", limit=3)),
    ],
)
def test_tasks_that_cannot_be_scored_are_refused(tasks):
    with pytest.raises(InvalidArgument) as caught:
        check_selections(tasks)
    assert caught.value.violations[0][0].startswith("tasks")


def test_evaluation_ids_are_valid_distinct_and_stable():
    suite = _suite()
    long = "r" * 40 + "-step-00000100-e12"
    ids = {suite.evaluation_id(long), suite.evaluation_id("r-step-00000100-e1")}
    ids.add(replace(suite, id="other").evaluation_id(long))
    assert len(ids) == 3
    assert all(check_id(identifier) for identifier in ids)
    assert suite.evaluation_id(long) == suite.evaluation_id(long)


def test_last_checkpoint_is_due_although_its_step_is_no_multiple():
    suite = _suite(every_steps=20)
    seen = [SeenCheckpoint(str(step), step, epoch, True) for step, epoch in ((20, 1), (30, 1), (25, 2))]
    assert [it.step for it in suite.due_at_the_end(seen)] == [20, 25]
    assert suite.due_at_the_end([]) == []


def test_suite_ends_only_when_its_run_has_and_everything_is_evaluated():
    running = _suite(state=State.RUNNING)
    assert running.settle(Counts(2, 2)).state is State.RUNNING
    complete = replace(running, complete=True)
    assert complete.settle(Counts(2, 1)).state is State.RUNNING
    assert complete.settle(Counts(2, 1, skipped=1)).state is State.SUCCEEDED
    assert complete.settle(Counts()).state is State.SUCCEEDED
    assert complete.settle(Counts(2, 1, 1)).state is State.FAILED
    assert replace(running, state=State.CANCELLING).settle(Counts(1, cancelled=1)).state is State.CANCELLED


def test_count_tells_skipped_from_cancelled():
    evaluations = [
        _evaluation().cancel(NOW, Reason(CHECKPOINT_GONE, "")),
        _evaluation().cancel(NOW),
        _evaluation().succeed((), NOW),
        _evaluation(),
    ]
    assert count(evaluations) == Counts(evaluations=4, succeeded=1, skipped=1, cancelled=1)


def test_curve_takes_the_newest_epoch_of_a_step_and_judges_the_task():
    evaluations = [
        _evaluation(step=10, epoch=1, scores=(_score(5.0),)),
        _evaluation(step=10, epoch=2, scores=(_score(3.0),)),
        _evaluation(step=20, epoch=2, scores=(_score(2.0), _score(0.3, 0.01, True, 0.25, "acc"))),
        _evaluation(step=30, epoch=2, scores=(_score(1.0), _score(0.26, 0.01, True, 0.25, "acc"))),
    ]
    points = curve(evaluations)
    assert [(point.step, point.scores[0].value) for point in points] == [(10, 3.0), (20, 2.0), (30, 1.0)]
    bits, accuracy = qualities(points)
    assert (bits.spearman, bits.above_chance) == (pytest.approx(1.0), None)
    assert bits.signal_to_noise == pytest.approx(20.0)
    assert (accuracy.spearman, accuracy.above_chance, accuracy.points) == (pytest.approx(-1.0), False, 2)
    assert math.isnan(qualities(points[:1])[0].spearman)


def _result(values, ids=None, weights=None, task="bpb"):
    ids = ids or [str(index) for index in range(len(values))]
    weights = weights or [1.0] * len(values)
    items = tuple(
        ItemScore(id=i, cluster=f"d{int(i) // 2}", value=v, weight=w)
        for i, v, w in zip(ids, values, weights, strict=True)
    )
    score = TaskScore(task=task, metric="bits_per_byte", higher_is_better=False, items=items)
    return ScoreResult(checkpoint_digest="c", token_set_digest="t", step=1, scores=(score,))


def test_comparison_pairs_items_by_id_in_any_order():
    first = _result([1.0, 2.0, 3.0, 4.0])
    second = _result([3.5, 2.5, 2.0, 0.5], ids=["3", "2", "1", "0"])
    [(task, difference)] = paired_differences(first, second, task="", seed=0)
    assert task.task == "bpb"
    assert difference.difference == pytest.approx(-0.375)
    # clusters d0: -0.5, 0; d1: -0.5, -0.5; mean -0.375; cluster residuals +-0.125 * 2 / 4
    assert difference.standard_error == pytest.approx(math.sqrt(2 * 2 * (0.25 / 4) ** 2))


@pytest.mark.parametrize(
    "second",
    [
        _result([1.0, 2.0], ids=["0", "9"]),
        _result([1.0, 2.0], weights=[1.0, 2.0]),
        _result([1.0, 2.0], task="other"),
    ],
)
def test_results_with_other_items_cannot_be_compared(second):
    with pytest.raises(FailedPrecondition) as caught:
        paired_differences(_result([1.0, 2.0]), second, task="", seed=0)
    assert caught.value.reason == "NOT_COMPARABLE"


def test_scores_of_a_result_carry_clustered_errors():
    [score] = metric_scores(_result([1.0, 2.0, 3.0, 4.0]))
    assert (score.value, score.items, score.clusters) == (2.5, 4, 2)
    assert score.standard_error == pytest.approx(math.sqrt(2 * 2 * (2 / 4) ** 2))
