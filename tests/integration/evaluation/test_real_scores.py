"""Evaluation over the real training and checkpoint services: pods train a small model and score each checkpoint."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from longhaul.common.v1 import resource_pb2 as common
from longhaul.corpus.v1 import token_set_pb2, token_set_pb2_grpc
from longhaul.evaluation.v1 import evaluation_pb2 as pb
from longhaul_core.manifests import read_manifest
from longhaul_core.objects import open_store
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service
from longhaul_evaluation.app import build
from longhaul_evaluation.settings import EvaluationSettings

from tests.integration.evaluation.support import Client, FakeCorpus, eventually, serving
from tests.integration.trainer.trainer_harness import make_token_set
from tests.integration.training.training_harness import TOKEN_SET, Lab, config, run_name

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TASKS = [pb.TaskSelection(task="bits_per_byte"), pb.TaskSelection(task="cloze", few_shot=1)]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """One node of one pretend GPU, with a committed token set."""
    opened = Lab(tmp_path, nodes=1, guarded=False)
    try:
        opened.create_project()
        opened.token_set_key = make_token_set(opened.objects_url)
        opened.upstream.add_token_set(opened.token_set_key)
        yield opened
    finally:
        opened.close()


@pytest.fixture
async def corpus(lab: Lab) -> AsyncIterator[str]:
    """A corpus service that has the token set."""
    service = FakeCorpus()
    digest = read_manifest(open_store(lab.objects_url), lab.token_set_key).digest
    service.token_set = token_set_pb2.TokenSet(
        metadata=common.Metadata(name=TOKEN_SET), manifest_key=lab.token_set_key, digest=digest
    )
    async with asynccontextmanager(serving)(
        (token_set_pb2_grpc.add_TokenSetServiceServicer_to_server, service)
    ) as address:
        yield address


@pytest.fixture
async def client(lab: Lab, corpus: str) -> AsyncIterator[Client]:
    settings = EvaluationSettings(
        data_dir=lab.folder,
        listen_address="127.0.0.1:0",
        metrics_address="",
        log_level="error",
        training_address=lab.training.environment["LONGHAUL_TRAINING_ADDRESS"],
        checkpoint_address=lab.training.environment["LONGHAUL_CHECKPOINT_ADDRESS"],
        corpus_address=corpus,
        score_gpus=0,
        attempts=1,
    )
    async with running_service(settings, build) as address, connect(address) as channel:
        yield Client(channel)


async def test_each_checkpoint_of_a_real_run_is_scored_and_compared(lab, client):
    request = pb.CreateEvaluationSuiteRequest(
        parent="projects/lab",
        evaluation_suite_id="s1",
        spec=pb.EvaluationSuiteSpec(training_run=run_name("scored"), token_set=TOKEN_SET, tasks=TASKS),
    )
    await client.call(client.suites, "CreateEvaluationSuite", request)
    lab.create_run("scored", config(steps=40, checkpoint={"every_steps": 20}), nodes=1)
    await eventually(lambda: _ended(client), timeout_seconds=300)
    listed = pb.ListEvaluationsRequest(parent="projects/lab", training_run=run_name("scored"))
    found = (await client.call(client.evaluations, "ListEvaluations", listed)).evaluations
    assert [(it.status.step, it.status.state, it.status.reason.message) for it in found] == [
        (40, common.JOB_STATE_SUCCEEDED, ""),
        (20, common.JOB_STATE_SUCCEEDED, ""),
    ]
    last, first = found
    assert {(score.task, score.few_shot, score.metric) for score in first.status.scores} >= {
        ("bits_per_byte", 0, "bits_per_byte")
    }
    assert all(score.standard_error > 0 for score in first.status.scores if score.metric == "bits_per_byte")
    compared = await client.call(
        client.evaluations,
        "CompareEvaluations",
        pb.CompareEvaluationsRequest(first=first.metadata.name, second=last.metadata.name, task="bits_per_byte"),
    )
    [difference] = compared.differences
    assert (difference.items, difference.clusters) == (8, 4)
    assert difference.standard_error > 0
    assert difference.difference == pytest.approx(difference.second - difference.first)
    assert difference.interval_low <= difference.difference <= difference.interval_high


async def _ended(client: Client) -> bool:
    request = pb.GetEvaluationSuiteRequest(name="projects/lab/evaluationSuites/s1")
    status = (await client.call(client.suites, "GetEvaluationSuite", request)).status
    return status.state in (common.JOB_STATE_SUCCEEDED, common.JOB_STATE_FAILED)
