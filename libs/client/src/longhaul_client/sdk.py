"""The Python SDK: one object with a stub for each API, and the few calls that most programs need."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from longhaul.checkpoint.v1 import checkpoint_pb2_grpc
from longhaul.corpus.v1 import corpus_build_pb2_grpc, token_set_pb2_grpc, tokenizer_pb2_grpc
from longhaul.evaluation.v1 import evaluation_pb2_grpc
from longhaul.gpuhealth.v1 import node_health_pb2_grpc
from longhaul.ingest.v1 import dataset_pb2_grpc, ingestion_pb2_grpc, upload_pb2_grpc
from longhaul.training.v1 import (
    experiment_pb2_grpc,
    plan_pb2,
    plan_pb2_grpc,
    project_pb2_grpc,
    task_pb2_grpc,
    training_run_pb2_grpc,
)
from longhaul_core.errors import Unavailable
from longhaul_core.rpc.client import connect_sync, from_rpc_error

from longhaul_client import convert
from longhaul_client.connection import Connection, default_data_dir, local_connection
from longhaul_client.contexts import contexts_file, read_contexts
from longhaul_client.recipes import Recipe

MessageT = TypeVar("MessageT")

RECONNECT_SECONDS = 0.5


class Client:
    """Stubs of every API, as attributes named by the collection.

    Calls on the stubs raise grpc.RpcError; `call` and the methods of this class raise LonghaulError.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._channels = {
            service: connect_sync(address, token=connection.token, tls_ca=connection.tls_ca)
            for service, address in connection.addresses.items()
        }
        ingest, corpus, training = (self._channels[name] for name in ("ingest", "corpus", "training"))
        self.ingestions = ingestion_pb2_grpc.IngestionServiceStub(ingest)
        self.datasets = dataset_pb2_grpc.DatasetServiceStub(ingest)
        self.uploads = upload_pb2_grpc.UploadServiceStub(ingest)
        self.corpus_builds = corpus_build_pb2_grpc.CorpusBuildServiceStub(corpus)
        self.token_sets = token_set_pb2_grpc.TokenSetServiceStub(corpus)
        self.tokenizers = tokenizer_pb2_grpc.TokenizerServiceStub(corpus)
        self.projects = project_pb2_grpc.ProjectServiceStub(training)
        self.plans = plan_pb2_grpc.PlanServiceStub(training)
        self.runs = training_run_pb2_grpc.TrainingRunServiceStub(training)
        self.tasks = task_pb2_grpc.TaskServiceStub(training)
        self.experiments = experiment_pb2_grpc.ExperimentServiceStub(training)
        self.checkpoints = checkpoint_pb2_grpc.CheckpointServiceStub(self._channels["checkpoint"])
        self.evaluations = evaluation_pb2_grpc.EvaluationServiceStub(self._channels["evaluation"])
        self.suites = evaluation_pb2_grpc.EvaluationSuiteServiceStub(self._channels["evaluation"])
        self.nodes = node_health_pb2_grpc.NodeHealthServiceStub(self._channels["gpuhealth"])

    @classmethod
    def local(cls, data_dir: Path | None = None) -> Self:
        """Connect to the services that `longhaul up` started on this machine."""
        return cls(local_connection(data_dir or default_data_dir()))

    @classmethod
    def context(cls, name: str = "") -> Self:
        """Connect to an installation of `longhaul context list`; without a name to the current one."""
        known = read_contexts(contexts_file())
        chosen = known.get(name or known.current)
        return cls(chosen.connection() if chosen is not None else local_connection(default_data_dir()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all channels; streams that are open end."""
        for channel in self._channels.values():
            channel.close()

    def plan(self, recipe: Recipe, *, available_tokens: int = 0) -> plan_pb2.Plan:
        """Cost a recipe: size, memory, time, GPU-hours, warnings. Nothing is created."""
        return call(self.plans.CreatePlan, convert.plan_request(recipe, available_tokens=available_tokens))


def call(method: Callable[..., MessageT], request: Any, *, timeout_seconds: float = 30.0) -> MessageT:
    """Make a unary call.

    Raises:
        LonghaulError: What the service answered, with its code, reason, metadata and advice.
    """
    try:
        return method(request, timeout=timeout_seconds)
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None


def pages(method: Callable[..., Any], request: Any, field: str) -> Iterator[Any]:
    """Yield every item of a paged List method."""
    while True:
        response = call(method, request)
        yield from getattr(response, field)
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token


def follow(
    method: Callable[..., Any], request: Any, *, pause: Callable[[float], bool], resume_field: str = "after_revision"
) -> Iterator[Any]:
    """Yield the responses of a Watch, connecting again after the last revision whenever the service goes away.

    Args:
        method: A Watch method of a stub.
        request: Its request; `resume_field` is moved on as responses come.
        pause: Called with seconds between two tries; returns True when it is time to stop.
        resume_field: The field of the request that says where to resume.
    """
    while True:
        try:
            for response in method(request):
                yield response
                setattr(request, resume_field, response.revision)
        except grpc.RpcError as error:
            failure = from_rpc_error(error)
            if not isinstance(failure, Unavailable):
                raise failure from None
        if pause(RECONNECT_SECONDS):
            return
