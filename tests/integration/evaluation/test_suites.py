"""Suites over gRPC: each commit of a run is evaluated exactly once."""

import pytest
from longhaul.common.v1 import resource_pb2 as common
from longhaul.evaluation.v1 import evaluation_pb2 as pb
from longhaul.training.v1 import training_run_pb2 as runs
from longhaul_core.db import Database
from longhaul_evaluation.adapters.failpoints import Point

from tests.integration.evaluation.support import SUITE, eventually


async def test_every_commit_is_evaluated_once_and_the_suite_ends_with_its_run(client, upstream):
    upstream.training.run_state = None
    await client.create_suite()
    waiting = await client.suite_reaches(common.JOB_STATE_WAITING_FOR_INPUTS)
    assert waiting.reason.code == "TRAINING_RUN_NOT_FOUND"
    upstream.training.run_state = runs.TRAINING_RUN_STATE_RUNNING
    for step in (10, 20, 30):
        await upstream.save(step)
    upstream.corpus.commit(upstream.store)
    await eventually(lambda: _evaluated(client, [10, 20, 30]))
    assert (await client.suite()).state == common.JOB_STATE_RUNNING
    await upstream.save(40)
    upstream.training.run_state = runs.TRAINING_RUN_STATE_SUCCEEDED
    status = await client.suite_reaches(common.JOB_STATE_SUCCEEDED)
    assert (status.evaluations, status.succeeded, status.failed) == (4, 4, 0)
    assert await client.steps_evaluated() == [10, 20, 30, 40]
    assert len(upstream.training.creates) == 4


async def test_only_every_nth_step_and_the_last_one_are_evaluated(client, upstream):
    upstream.corpus.commit(upstream.store)
    await client.create_suite(every_steps=20)
    for step in (10, 20, 30):
        await upstream.save(step)
    await eventually(lambda: _evaluated(client, [20]))
    upstream.training.run_state = runs.TRAINING_RUN_STATE_SUCCEEDED
    await client.suite_reaches(common.JOB_STATE_SUCCEEDED)
    assert await client.steps_evaluated() == [20, 30]


async def test_failed_evaluation_fails_the_suite_but_not_the_others(client, upstream):
    upstream.corpus.commit(upstream.store)
    upstream.training.failures_left = 3
    await client.create_suite()
    await upstream.save(10)
    await eventually(lambda: _states(client, [common.JOB_STATE_FAILED]))
    await upstream.save(20)
    upstream.training.run_state = runs.TRAINING_RUN_STATE_SUCCEEDED
    status = await client.suite_reaches(common.JOB_STATE_FAILED)
    assert (status.evaluations, status.succeeded, status.failed) == (2, 1, 1)
    assert status.reason.code == "EVALUATIONS_FAILED"


async def test_checkpoint_deleted_while_the_service_was_down_is_counted_as_skipped(serve, upstream):
    upstream.corpus.commit(upstream.store)
    async with serve() as client:
        await client.create_suite()
    for step in (10, 20):
        await upstream.save(step)
    await upstream.collect(keep_last=1)
    async with serve() as client:
        await eventually(lambda: _evaluated(client, [20]))
        upstream.training.run_state = runs.TRAINING_RUN_STATE_SUCCEEDED
        status = await client.suite_reaches(common.JOB_STATE_SUCCEEDED)
        assert (status.evaluations, status.succeeded, status.skipped) == (2, 1, 1)


async def test_suite_of_a_failed_run_goes_on_when_the_run_is_retried(client, upstream):
    upstream.corpus.commit(upstream.store)
    await client.create_suite()
    await upstream.save(10)
    upstream.training.run_state = runs.TRAINING_RUN_STATE_FAILED
    await client.suite_reaches(common.JOB_STATE_SUCCEEDED)
    upstream.training.run_state = runs.TRAINING_RUN_STATE_RUNNING
    await client.suite_reaches(common.JOB_STATE_RUNNING)
    await upstream.save(20, epoch=2)
    upstream.training.run_state = runs.TRAINING_RUN_STATE_SUCCEEDED
    await client.suite_reaches(common.JOB_STATE_SUCCEEDED)
    assert await client.steps_evaluated() == [10, 20]


async def test_cancelled_suite_ends_its_evaluations_and_takes_no_more(client, upstream):
    upstream.corpus.commit(upstream.store)
    upstream.training.hold = True
    await client.create_suite()
    await upstream.save(10)
    await eventually(lambda: upstream.training.tasks)
    await client.call(client.suites, "CancelEvaluationSuite", pb.CancelEvaluationSuiteRequest(name=SUITE))
    await client.suite_reaches(common.JOB_STATE_CANCELLED)
    await upstream.save(20)
    assert [it.status.state for it in await client.list_evaluations()] == [common.JOB_STATE_CANCELLED]


async def test_commits_before_and_after_a_restart_of_the_checkpoint_store_are_evaluated_once(client, upstream):
    upstream.corpus.commit(upstream.store)
    await client.create_suite()
    await upstream.save(10)
    await eventually(lambda: _evaluated(client, [10]))
    await upstream.restart_checkpoints()
    await upstream.save(20)
    await eventually(lambda: _evaluated(client, [10, 20]))
    assert len(upstream.training.creates) == 2


async def test_commit_while_evaluation_is_down_is_evaluated_when_it_is_back(serve, upstream):
    upstream.corpus.commit(upstream.store)
    async with serve() as client:
        await client.create_suite()
        await upstream.save(10)
        await eventually(lambda: _evaluated(client, [10]))
    await upstream.save(20)
    async with serve() as client:
        await eventually(lambda: _evaluated(client, [10, 20]))
    assert len(upstream.training.creates) == 2


@pytest.mark.needs_program("postgres")
async def test_suite_in_postgresql_evaluates_each_commit_once_with_two_replicas(serve, upstream, postgres_url):
    Database.open(postgres_url, migrated=True).close()
    upstream.corpus.commit(upstream.store)
    async with serve(database_url=postgres_url) as client, serve(database_url=postgres_url):
        await client.create_suite()
        for step in (10, 20, 30):
            await upstream.save(step)
        upstream.training.run_state = runs.TRAINING_RUN_STATE_SUCCEEDED
        status = await client.suite_reaches(common.JOB_STATE_SUCCEEDED)
        assert (status.evaluations, status.succeeded) == (3, 3)
        assert all(evaluation.status.attempts == 1 for evaluation in await client.list_evaluations())
    assert len(upstream.training.tasks) == 3


async def test_task_that_training_lost_is_asked_for_again(client, upstream):
    upstream.training.hold = True
    upstream.corpus.commit(upstream.store)
    await client.create_suite()
    await upstream.save(10)
    await eventually(lambda: upstream.training.tasks)
    upstream.training.tasks.clear()
    await eventually(lambda: upstream.training.tasks)
    upstream.training.release()
    await eventually(lambda: _evaluated(client, [10]))
    assert len(set(upstream.training.creates)) == 1


@pytest.mark.parametrize("point", list(Point))
async def test_kill_gives_each_evaluation_once(process, serve, upstream, point):
    upstream.corpus.commit(upstream.store)
    async with serve() as client:
        await client.create_suite()
    for step in (10, 20):
        await upstream.save(step)
    process.start(failpoints=f"{point}:2", poll_seconds="0.05", log_level="error", **upstream.addresses)
    await eventually(process.was_killed, timeout_seconds=30)
    async with serve() as client:
        await upstream.save(30)
        upstream.training.run_state = runs.TRAINING_RUN_STATE_SUCCEEDED
        status = await client.suite_reaches(common.JOB_STATE_SUCCEEDED)
        assert (status.evaluations, status.succeeded) == (3, 3)
        assert await client.steps_evaluated() == [10, 20, 30]
        assert all(evaluation.status.attempts == 1 for evaluation in await client.list_evaluations())
    assert len(upstream.training.tasks) == 3


async def _evaluated(client, steps):
    return await client.steps_evaluated() == steps


async def _states(client, states):
    return [it.status.state for it in await client.list_evaluations()] == states
