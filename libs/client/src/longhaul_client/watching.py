"""Follows a pipeline over all services at once; the watcher may come and go, the services do not notice."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from longhaul.checkpoint.v1 import checkpoint_pb2
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import corpus_build_pb2
from longhaul.evaluation.v1 import evaluation_pb2
from longhaul.ingest.v1 import ingestion_pb2
from longhaul.training.v1 import training_run_pb2
from longhaul_core.errors import LonghaulError

from longhaul_client.pipeline import Pipeline
from longhaul_client.sdk import Client, follow

FAILED_JOB_STATES = frozenset({resource_pb2.JOB_STATE_FAILED, resource_pb2.JOB_STATE_CANCELLED})
TERMINAL_JOB_STATES = FAILED_JOB_STATES | {resource_pb2.JOB_STATE_SUCCEEDED}
FAILED_RUN_STATES = frozenset(
    {training_run_pb2.TRAINING_RUN_STATE_FAILED, training_run_pb2.TRAINING_RUN_STATE_CANCELLED}
)
TERMINAL_RUN_STATES = FAILED_RUN_STATES | {training_run_pb2.TRAINING_RUN_STATE_SUCCEEDED}


@dataclass(slots=True)
class PipelineState:
    """The newest known form of each resource of a pipeline; None until first seen."""

    ingestion: ingestion_pb2.Ingestion | None = None
    corpus_build: corpus_build_pb2.CorpusBuild | None = None
    run: training_run_pb2.TrainingRun | None = None
    suite: evaluation_pb2.EvaluationSuite | None = None
    checkpoints: dict[str, checkpoint_pb2.Checkpoint] = field(default_factory=dict)

    @property
    def failure(self) -> tuple[str, resource_pb2.StateReason] | None:
        """The first stage that failed or was cancelled, with its reason: what follows it cannot succeed."""
        jobs = (("ingest", self.ingestion), ("corpus", self.corpus_build))
        for stage, job in jobs:
            if job is not None and job.status.state in FAILED_JOB_STATES:
                return stage, job.status.reason
        if self.run is not None and self.run.status.state in FAILED_RUN_STATES:
            return "train", self.run.status.reason
        if self.suite is not None and self.suite.status.state in FAILED_JOB_STATES:
            return "evaluate", self.suite.status.reason
        return None

    @property
    def finished(self) -> bool:
        """Whether everything is over: a failure before training, or the run and the evaluation of its checkpoints."""
        failure = self.failure
        if failure is not None and failure[0] in ("ingest", "corpus"):
            return True
        return (
            self.run is not None
            and self.run.status.state in TERMINAL_RUN_STATES
            and self.suite is not None
            and self.suite.status.state in TERMINAL_JOB_STATES
        )

    @property
    def succeeded(self) -> bool:
        """Whether everything ended well."""
        return (
            self.finished
            and self.run is not None
            and self.run.status.state == training_run_pb2.TRAINING_RUN_STATE_SUCCEEDED
            and self.suite is not None
            and self.suite.status.state == resource_pb2.JOB_STATE_SUCCEEDED
        )


class PipelineWatch:
    """Watches the resources of a pipeline in background threads; iterate to get the state after each change."""

    def __init__(self, client: Client, pipeline: Pipeline) -> None:
        self._client = client
        self._pipeline = pipeline
        self._changes: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self.state = PipelineState()

    def __iter__(self) -> Iterator[PipelineState]:
        """Yield the state after each change, and about twice a second without one, until all is finished."""
        for name, method, request in self._streams():
            threading.Thread(target=self._watch, args=(name, method, request), daemon=True).start()
        try:
            while not self.state.finished:
                self._take_changes()
                yield self.state
        finally:
            self._stop.set()

    def _streams(self) -> Iterator[tuple[str, Any, Any]]:
        parent, names = self._pipeline.parent, self._pipeline
        client = self._client
        yield (
            "ingestion",
            client.ingestions.WatchIngestions,
            ingestion_pb2.WatchIngestionsRequest(parent=parent, name=names.ingestion),
        )
        yield (
            "corpus_build",
            client.corpus_builds.WatchCorpusBuilds,
            corpus_build_pb2.WatchCorpusBuildsRequest(parent=parent, name=names.corpus_build),
        )
        yield (
            "training_run",
            client.runs.WatchTrainingRuns,
            training_run_pb2.WatchTrainingRunsRequest(parent=parent, name=names.run),
        )
        yield (
            "evaluation_suite",
            client.suites.WatchEvaluationSuites,
            evaluation_pb2.WatchEvaluationSuitesRequest(parent=parent, name=names.suite),
        )
        yield (
            "checkpoint",
            client.checkpoints.WatchCheckpoints,
            checkpoint_pb2.WatchCheckpointsRequest(parent=parent, training_run=names.run),
        )

    def _watch(self, name: str, method: Any, request: Any) -> None:
        try:
            for response in follow(method, request, pause=self._stop.wait):
                if response.type != resource_pb2.CHANGE_TYPE_BOOKMARK:
                    self._changes.put((name, getattr(response, name)))
                if self._stop.is_set():
                    return
        except (LonghaulError, ValueError) as error:
            # ValueError: the channel was closed under the stream, at the end of the program.
            if not self._stop.is_set():
                self._changes.put(("error", error))

    def _take_changes(self, timeout_seconds: float = 0.5) -> None:
        try:
            name, resource = self._changes.get(timeout=timeout_seconds)
        except queue.Empty:
            return
        while True:
            self._apply(name, resource)
            try:
                name, resource = self._changes.get_nowait()
            except queue.Empty:
                return

    def _apply(self, name: str, resource: Any) -> None:
        if name == "error":
            raise resource
        if name == "training_run":
            self.state.run = resource
        elif name == "evaluation_suite":
            self.state.suite = resource
        elif name == "checkpoint":
            self.state.checkpoints[resource.metadata.name] = resource
        else:
            setattr(self.state, name, resource)
