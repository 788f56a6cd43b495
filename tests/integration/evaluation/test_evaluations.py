"""Single evaluations over gRPC: inputs, task, result, failures, comparison, curve."""

import pytest
from longhaul.common.v1 import resource_pb2 as common
from longhaul.evaluation.v1 import evaluation_pb2 as pb
from longhaul_core.errors import AlreadyExists, FailedPrecondition, InvalidArgument

from tests.integration.evaluation.support import RUN, TASKS, checkpoint_name, default_files, eventually


async def test_evaluation_waits_for_its_inputs_and_then_scores(client, upstream):
    await client.create("e1", 100)
    waiting = await client.reaches("e1", common.JOB_STATE_WAITING_FOR_INPUTS)
    assert waiting.status.reason.code == "CHECKPOINT_NOT_FOUND"
    await upstream.save(100)

    async def lacks_token_set():
        return (await client.get("e1")).status.reason.code == "TOKEN_SET_NOT_FOUND"

    await eventually(lacks_token_set)
    upstream.corpus.commit(upstream.store)
    done = await client.reaches("e1", common.JOB_STATE_SUCCEEDED)
    bits, accuracy = done.status.scores
    assert (bits.task, bits.metric, bits.items, bits.higher_is_better) == ("bits_per_byte", "bits_per_byte", 40, False)
    assert bits.value == pytest.approx(7.0, abs=0.3)
    assert 0.03 < bits.standard_error < 0.2
    assert (accuracy.few_shot, accuracy.chance) == (2, 0.25)
    assert (done.status.step, done.status.training_run, done.status.attempts) == (100, RUN, 1)
    assert upstream.store.exists(done.status.result_key)
    [arguments] = upstream.training.arguments()
    assert arguments.checkpoint.digest == (await upstream.checkpoint(100)).digest
    assert [(task.task, task.few_shot) for task in arguments.tasks] == [("bits_per_byte", 0), ("cloze", 2)]


async def test_checkpoint_is_leased_while_it_is_evaluated_and_let_go_after(client, upstream):
    upstream.training.hold = True
    upstream.corpus.commit(upstream.store)
    await upstream.save(10)
    await client.create("e1", 10)
    await eventually(lambda: upstream.training.tasks)
    await upstream.save(20)
    await upstream.collect(keep_last=1)
    assert len((await upstream.checkpoint(10)).leases) == 1
    upstream.training.release()
    await client.reaches("e1", common.JOB_STATE_SUCCEEDED)

    async def released():
        return not (await upstream.checkpoint(10)).leases

    await eventually(released)
    assert "bits_per_byte/0-shot/bits_per_byte" in (await upstream.checkpoint(10)).metrics


async def test_failed_task_is_tried_again_within_the_budget(client, upstream):
    upstream.training.failures_left = 2
    upstream.corpus.commit(upstream.store)
    await upstream.save(10)
    await client.create("e1", 10)
    done = await client.reaches("e1", common.JOB_STATE_SUCCEEDED)
    assert done.status.attempts == 3
    assert len(upstream.training.tasks) == 3


async def test_task_that_always_fails_fails_the_evaluation_with_its_reason(client, upstream):
    upstream.training.failures_left = 10**6
    upstream.corpus.commit(upstream.store)
    await upstream.save(10)
    await client.create("e1", 10)
    failed = await client.reaches("e1", common.JOB_STATE_FAILED)
    assert failed.status.reason.code == "POD_FAILED"
    assert failed.status.reason.message == "exit code 80 (after 3 attempts)"


@pytest.mark.parametrize("result", [b"{", b'{"schema":"longhaul.scores/v1"}', b"\x80\x04K\x01."])
async def test_result_that_is_none_fails_the_evaluation_clearly(client, upstream, result):
    upstream.training.result_bytes = result
    upstream.corpus.commit(upstream.store)
    await upstream.save(10)
    await client.create("e1", 10)
    failed = await client.reaches("e1", common.JOB_STATE_FAILED)
    assert failed.status.reason.code == "RESULT_MALFORMED"


async def test_malformed_task_file_is_reported_with_its_line_and_no_task_is_started(client, upstream):
    files = default_files()
    lines = files["cloze"].splitlines()
    lines[6] = b'{"id": "i6", "context": "c", "choices": ["a"], "gold": 0, "cluster": "d3"}'
    upstream.corpus.commit(upstream.store, files | {"cloze": b"\n".join(lines)})
    await upstream.save(10)
    await client.create("e1", 10)
    failed = await client.reaches("e1", common.JOB_STATE_FAILED)
    assert failed.status.reason.code == "MALFORMED_TASK_FILE"
    assert "'cloze', line 7: the field 'choices'" in failed.status.reason.message
    assert upstream.training.tasks == {}


async def test_task_that_the_token_set_lacks_is_named_with_those_it_has(client, upstream):
    upstream.corpus.commit(upstream.store)
    await upstream.save(10)
    await client.create("e1", 10, tasks=[pb.TaskSelection(task="clozes")])
    failed = await client.reaches("e1", common.JOB_STATE_FAILED)
    assert failed.status.reason.code == "TASK_UNKNOWN"
    assert failed.status.reason.metadata["known"] == "bits_per_byte, cloze"


async def test_deleted_checkpoint_fails_the_evaluation(client, upstream):
    for step in (10, 20):
        await upstream.save(step)
    await upstream.collect(keep_last=1)
    await client.create("e1", 10)
    failed = await client.reaches("e1", common.JOB_STATE_FAILED)
    assert failed.status.reason.code == "CHECKPOINT_GONE"


async def test_cancel_ends_the_task_and_the_evaluation(client, upstream):
    upstream.training.hold = True
    upstream.corpus.commit(upstream.store)
    await upstream.save(10)
    await client.create("e1", 10)
    await eventually(lambda: upstream.training.tasks)
    request = pb.CancelEvaluationRequest(name="projects/demo/evaluations/e1")
    await client.call(client.evaluations, "CancelEvaluation", request)
    await client.reaches("e1", common.JOB_STATE_CANCELLED)
    assert [task.status.state for task in upstream.training.tasks.values()] == [common.JOB_STATE_CANCELLED]


async def test_tasks_are_asked_for_no_more_than_allowed_at_a_time(serve, upstream):
    upstream.training.hold = True
    upstream.corpus.commit(upstream.store)
    async with serve(score_concurrency=2) as client:
        for step in (10, 20, 30):
            await upstream.save(step)
            await client.create(f"e{step}", step)
        await eventually(lambda: len(upstream.training.tasks) == 2)
        upstream.training.release()
        for step in (10, 20, 30):
            await client.reaches(f"e{step}", common.JOB_STATE_SUCCEEDED)
    assert len(upstream.training.creates) == 3


async def test_create_is_idempotent_and_refuses_another_specification(client, upstream):
    first = await client.create("e1", 10)
    assert (await client.create("e1", 10)).metadata.uid == first.metadata.uid
    with pytest.raises(AlreadyExists) as caught:
        await client.create("e1", 20)
    assert caught.value.reason == "SPEC_DIFFERS"


@pytest.mark.parametrize(
    "spec",
    [
        {"checkpoint": "x"},
        {"token_set": "projects/other/tokenSets/t1"},
        {"tasks": []},
        {"tasks": [TASKS[0], TASKS[0]]},
        {"batch_size": -1},
    ],
)
async def test_specification_that_cannot_be_is_refused(client, spec):
    with pytest.raises(InvalidArgument):
        await client.create("e1", 10, **spec)


async def test_comparison_is_paired_and_clustered(client, upstream):
    upstream.corpus.commit(upstream.store)
    for step in (100, 110):
        await upstream.save(step)
        await client.create(f"e{step}", step)
        await client.reaches(f"e{step}", common.JOB_STATE_SUCCEEDED)
    request = pb.CompareEvaluationsRequest(
        first="projects/demo/evaluations/e100", second="projects/demo/evaluations/e110"
    )
    response = await client.call(client.evaluations, "CompareEvaluations", request)
    bits, _ = response.differences
    single = next(it for it in (await client.get("e100")).status.scores if it.task == "bits_per_byte")
    assert bits.difference == pytest.approx(-0.1)
    assert bits.standard_error < 1e-6 < single.standard_error
    assert bits.interval_low == pytest.approx(-0.1)
    assert bits.interval_high == pytest.approx(-0.1)
    assert (bits.items, bits.clusters, bits.higher_is_better) == (40, 20, False)
    assert bits.p_value < 1e-6
    with pytest.raises(FailedPrecondition) as caught:
        await client.call(
            client.evaluations,
            "CompareEvaluations",
            pb.CompareEvaluationsRequest(first=request.first, second=request.second, task="nonsense"),
        )
    assert caught.value.reason == "NOT_COMPARABLE"


async def test_curve_shows_scores_by_step_and_the_quality_of_each_task(client, upstream):
    upstream.corpus.commit(upstream.store)
    for step in (300, 100, 200):
        await upstream.save(step, epoch=1 if step != 200 else 2)
        await client.create(f"e{step}", step, checkpoint=checkpoint_name(step, 1 if step != 200 else 2))
        await client.reaches(f"e{step}", common.JOB_STATE_SUCCEEDED)
    curve = await client.call(client.evaluations, "GetScoreCurve", pb.GetScoreCurveRequest(training_run=RUN))
    assert [point.step for point in curve.points] == [100, 200, 300]
    bits = next(quality for quality in curve.quality if quality.task == "bits_per_byte")
    accuracy = next(quality for quality in curve.quality if quality.task == "cloze")
    assert bits.spearman == pytest.approx(1.0)
    assert not bits.HasField("above_chance")
    assert accuracy.above_chance
