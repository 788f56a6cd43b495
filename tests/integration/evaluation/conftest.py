"""The evaluation service over gRPC, beside a real checkpoint service and training and corpus services made here."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from longhaul.checkpoint.v1.checkpoint_pb2_grpc import CheckpointServiceStub
from longhaul.corpus.v1 import token_set_pb2_grpc
from longhaul.training.v1 import task_pb2_grpc, training_run_pb2_grpc
from longhaul_checkpoint import app as checkpoint_app
from longhaul_checkpoint.settings import CheckpointSettings
from longhaul_core.objects import FilesystemStore
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service
from longhaul_evaluation.app import build
from longhaul_evaluation.settings import EvaluationSettings

from tests.integration.evaluation.support import Client, FakeCorpus, FakeTraining, Process, Upstream, serving

Serve = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
async def upstream(tmp_path: Path, free_port: int) -> AsyncIterator[Upstream]:
    """The services that evaluation needs; their addresses outlive it."""
    store = FilesystemStore.open(tmp_path / "objects")
    training, corpus = FakeTraining(store), FakeCorpus()
    fakes = asynccontextmanager(serving)(
        (task_pb2_grpc.add_TaskServiceServicer_to_server, training),
        (training_run_pb2_grpc.add_TrainingRunServiceServicer_to_server, training),
        (token_set_pb2_grpc.add_TokenSetServiceServicer_to_server, corpus),
    )
    settings = CheckpointSettings(
        data_dir=tmp_path,
        listen_address=f"127.0.0.1:{free_port}",
        metrics_address="",
        log_level="error",
        retention_interval_seconds=1e6,
        stale_seconds=0.0,
    )
    async with fakes as fake, AsyncExitStack() as checkpoint_service:

        async def restart() -> str:
            await checkpoint_service.aclose()
            return await checkpoint_service.enter_async_context(running_service(settings, checkpoint_app.build))

        address = await restart()
        addresses = {"training_address": fake, "corpus_address": fake, "checkpoint_address": address}
        async with connect(address) as channel:
            yield Upstream(store, training, corpus, CheckpointServiceStub(channel), addresses, restart)


@pytest.fixture
def serve(tmp_path: Path, upstream: Upstream) -> Serve:
    """The evaluation service over the test's data folder, as often as it is asked for."""

    @asynccontextmanager
    async def run(**fields: object) -> AsyncIterator[Client]:
        quick = {"poll_seconds": 0.05, "retry_seconds": 0.05, **upstream.addresses}
        settings = EvaluationSettings(
            data_dir=tmp_path, listen_address="127.0.0.1:0", metrics_address="", log_level="error", **(quick | fields)
        )
        async with running_service(settings, build) as address, connect(address) as channel:
            yield Client(channel)

    return run


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[Client]:
    async with serve() as client:
        yield client


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    service = Process(tmp_path)
    yield service
    service.stop()
