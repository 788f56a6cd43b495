"""Whether the services of an installation answer this user."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from longhaul.checkpoint.v1 import checkpoint_pb2
from longhaul.corpus.v1 import corpus_build_pb2
from longhaul.evaluation.v1 import evaluation_pb2
from longhaul.gpuhealth.v1 import node_health_pb2
from longhaul.ingest.v1 import ingestion_pb2
from longhaul.training.v1 import training_run_pb2
from longhaul_core.errors import LonghaulError

from longhaul_client.sdk import Client, call

PROBE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one service said: `state` is "serving", or the reason why not."""

    name: str
    address: str
    serving: bool
    state: str


def probe(client: Client, service: str, parent: str) -> Answer:
    """Ask a service for something small that every user may read."""
    method, request = _question(client, service, parent)
    address = client.connection.addresses[service]
    try:
        call(method, request, timeout_seconds=PROBE_SECONDS)
    except LonghaulError as error:
        return Answer(service, address, False, f"{error.code.value.lower()}: {error.message}")
    return Answer(service, address, True, "serving")


def _question(client: Client, service: str, parent: str) -> tuple[Callable[..., Any], Any]:
    questions: dict[str, tuple[Callable[..., Any], Any]] = {
        "ingest": (
            client.ingestions.ListIngestions,
            ingestion_pb2.ListIngestionsRequest(parent=parent, page_size=1),
        ),
        "corpus": (
            client.corpus_builds.ListCorpusBuilds,
            corpus_build_pb2.ListCorpusBuildsRequest(parent=parent, page_size=1),
        ),
        "training": (
            client.runs.ListTrainingRuns,
            training_run_pb2.ListTrainingRunsRequest(parent=parent, page_size=1),
        ),
        "checkpoint": (
            client.checkpoints.ListCheckpoints,
            checkpoint_pb2.ListCheckpointsRequest(parent=parent, page_size=1),
        ),
        "evaluation": (
            client.evaluations.ListEvaluations,
            evaluation_pb2.ListEvaluationsRequest(parent=parent, page_size=1),
        ),
        "gpuhealth": (client.nodes.ListNodeHealth, node_health_pb2.ListNodeHealthRequest(page_size=1)),
    }
    return questions[service]
