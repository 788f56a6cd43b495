"""Two replicas of every service on one PostgreSQL and one S3, one of each killed: the result of one of each."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from installation import Installation
from longhaul.checkpoint.v1 import checkpoint_pb2
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import corpus_build_pb2, token_set_pb2
from longhaul.evaluation.v1 import evaluation_pb2
from longhaul.ingest.v1 import dataset_pb2, ingestion_pb2
from longhaul.training.v1 import training_run_pb2
from longhaul_client import Client, read_recipe, submit
from longhaul_client.pipeline import Pipeline
from longhaul_client.report.collect import list_metrics
from longhaul_client.sdk import call
from longhaul_client.watching import TERMINAL_RUN_STATES
from longhaul_core.manifests import Manifest, read_manifest
from longhaul_core.objects import open_store
from recipes import recipe, write_documents, write_recipe
from replicas import ACCESS, SECRET, Bucket, Production

from tests.conftest import find_program

PARENT = "projects/default"
STEPS = 40
DEADLINE_SECONDS = 240
ENDED = {resource_pb2.JOB_STATE_SUCCEEDED, resource_pb2.JOB_STATE_FAILED, resource_pb2.JOB_STATE_CANCELLED}


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    served = Bucket(tmp_path / "bucket")
    yield served
    served.stop()


@pytest.fixture
def production(tmp_path: Path, postgres_url: str, bucket: Bucket) -> Iterator[Production]:
    running = Production(tmp_path / "production", postgres_url, bucket.url, count=2)
    yield running
    running.stop()


def until(look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not good(seen := look()):
        assert time.monotonic() < deadline, f"still {seen}"
        time.sleep(0.05)
    return seen


class Watched:
    """One pipeline, looked at by the services' own API."""

    def __init__(self, client: Client, pipeline: Pipeline) -> None:
        self.client, self.pipeline = client, pipeline

    def ingestion(self) -> Any:
        return call(
            self.client.ingestions.GetIngestion, ingestion_pb2.GetIngestionRequest(name=self.pipeline.ingestion)
        ).status

    def build(self) -> Any:
        request = corpus_build_pb2.GetCorpusBuildRequest(name=self.pipeline.corpus_build)
        return call(self.client.corpus_builds.GetCorpusBuild, request).status

    def run(self) -> Any:
        request = training_run_pb2.GetTrainingRunRequest(name=self.pipeline.run)
        return call(self.client.runs.GetTrainingRun, request).status

    def evaluations(self) -> list[Any]:
        request = evaluation_pb2.ListEvaluationsRequest(parent=self.pipeline.parent)
        found = call(self.client.evaluations.ListEvaluations, request).evaluations
        return [item for item in found if self.pipeline.run.rpartition("/")[2] in item.spec.checkpoint]

    def succeed(self) -> None:
        status = until(self.run, lambda status: status.state in TERMINAL_RUN_STATES)
        assert status.state == training_run_pb2.TRAINING_RUN_STATE_SUCCEEDED, status.reason
        scored = until(self.evaluations, lambda found: len(found) == 1 and found[0].status.state in ENDED)
        assert scored[0].status.state == resource_pb2.JOB_STATE_SUCCEEDED, scored[0].status

    def manifests(self, url: str) -> tuple[Manifest, Manifest]:
        store = open_store(url)
        dataset = call(
            self.client.datasets.GetDataset, dataset_pb2.GetDatasetRequest(name=self.pipeline.dataset)
        ).manifest_key
        tokens = call(
            self.client.token_sets.GetTokenSet, token_set_pb2.GetTokenSetRequest(name=self.pipeline.token_set)
        ).manifest_key
        return read_manifest(store, dataset), read_manifest(store, tokens)

    def losses(self) -> list[tuple[int, str]]:
        return [(row.step, row.loss.hex()) for row in list_metrics(self.client, self.pipeline.run)]


def content(manifest: Manifest) -> tuple[list[tuple[str, str]], dict[str, int]]:
    return [(part.key.rpartition("/")[2], part.digest) for part in manifest.parts], dict(manifest.counts)


def restored_checkpoints(folder: Path, bucket: Bucket, database_url: str, empty_url: str, run: str) -> list[Any]:
    """Back everything up, restore it as another installation, and read each checkpoint there."""
    program = find_program("postgres")
    assert program is not None
    dump = subprocess.run([program.with_name("pg_dump"), database_url], capture_output=True, check=True)
    bucket.copy(folder / "copy")
    restore = [program.with_name("psql"), "-v", "ON_ERROR_STOP=1", "-q", empty_url]
    subprocess.run(restore, input=dump.stdout, stdout=subprocess.DEVNULL, check=True)
    copy = Bucket(folder / "copy")
    elsewhere = Production(folder / "restored", empty_url, copy.url, count=1, nodes=0, services=["checkpoint"])
    try:
        stub = elsewhere.client.checkpoints
        listed = call(stub.ListCheckpoints, checkpoint_pb2.ListCheckpointsRequest(parent=PARENT, training_run=run))
        for checkpoint in listed.checkpoints:
            request = checkpoint_pb2.VerifyCheckpointRequest(name=checkpoint.metadata.name)
            verified = call(stub.VerifyCheckpoint, request)
            assert verified.intact, verified.damaged_parts
            assert verified.bytes_read > 0
        return list(listed.checkpoints)
    finally:
        elsewhere.stop()
        copy.stop()


@pytest.mark.needs_program("postgres")
@pytest.mark.timeout(600)
def test_one_replica_of_each_service_is_killed_and_the_result_is_that_of_a_single_installation(
    installation: Installation,
    production: Production,
    bucket: Bucket,
    postgres_url: str,
    other_postgres_url: str,
    tmp_path: Path,
):
    texts = write_documents(tmp_path / "texts", documents=400, seed=7)
    training = {"steps": STEPS, "validation": {"every_steps": STEPS, "sequences": 4}}
    evaluation = {"tasks": [{"task": "bits_per_byte"}], "every_steps": STEPS}
    document = recipe("replicated", texts, training=training, evaluation=evaluation)
    path = write_recipe(tmp_path / "plain.yaml", document)
    document["resources"]["pod"] = {"env": {"TRAINER_DRILL": "step=0.1"}}
    paced = write_recipe(tmp_path / "paced.yaml", document)

    watched = Watched(production.client, submit(production.client, read_recipe(paced)))
    until(watched.ingestion, lambda status: status.state == resource_pb2.JOB_STATE_RUNNING)
    production.of("ingest")[0].kill()
    until(watched.build, lambda status: status.state == resource_pb2.JOB_STATE_RUNNING)
    production.of("corpus")[0].kill()
    status = until(watched.run, lambda status: status.step >= 5)
    assert status.step < STEPS, "the run was over before anything was killed"
    for service in ("training", "checkpoint", "evaluation", "gpuhealth"):
        production.of(service)[0].kill()
    watched.succeed()

    with installation.client() as client:
        alone = Watched(client, submit(client, read_recipe(path)))
        alone.succeed()
        expected = alone.manifests(f"file://{installation.data_dir / 'objects'}")
        assert [content(found) for found in watched.manifests(bucket.url)] == [content(found) for found in expected]
        assert watched.losses() == alone.losses()

    run = watched.pipeline.run
    listed = checkpoint_pb2.ListCheckpointsRequest(parent=PARENT, training_run=run)
    there = list(call(production.client.checkpoints.ListCheckpoints, listed).checkpoints)
    assert there
    assert restored_checkpoints(tmp_path, bucket, postgres_url, other_postgres_url, run) == there
