"""Gathers what a report shows of one run, from all services."""

from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import MessageToDict
from longhaul.checkpoint.v1 import checkpoint_pb2
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import corpus_build_pb2, token_set_pb2, tokenizer_pb2
from longhaul.evaluation.v1 import evaluation_pb2
from longhaul.ingest.v1 import dataset_pb2, ingestion_pb2
from longhaul.training.v1 import training_run_pb2
from longhaul_core.errors import FailedPrecondition, NotFound

from longhaul_client.pipeline import Pipeline, pipeline_of
from longhaul_client.sdk import Client, call, pages

METRICS_PAGE = 1000
EVENTS_PAGE = 500


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything of one run that a report shows; parts that do not exist yet are None or empty."""

    pipeline: Pipeline
    run: training_run_pb2.TrainingRun
    metrics: list[training_run_pb2.StepMetrics]
    events: list[resource_pb2.Event]
    ingestion: ingestion_pb2.Ingestion | None = None
    dataset: dataset_pb2.Dataset | None = None
    corpus_build: corpus_build_pb2.CorpusBuild | None = None
    corpus_report: dict[str, Any] = field(default_factory=dict)
    token_set: token_set_pb2.TokenSet | None = None
    tokenizer: tokenizer_pb2.Tokenizer | None = None
    checkpoints: list[checkpoint_pb2.Checkpoint] = field(default_factory=list)
    curve: evaluation_pb2.ScoreCurve = field(default_factory=evaluation_pb2.ScoreCurve)
    differences: list[evaluation_pb2.PairedDifference] = field(default_factory=list)


def collect(client: Client, run_name: str) -> ReportData:
    """Read what there is of a run.

    Raises:
        NotFound: the run does not exist.
    """
    run = call(client.runs.GetTrainingRun, training_run_pb2.GetTrainingRunRequest(name=run_name))
    build_name = run.spec.token_set.replace("/tokenSets/", "/corpusBuilds/")
    build = call(client.corpus_builds.GetCorpusBuild, corpus_build_pb2.GetCorpusBuildRequest(name=build_name))
    pipeline = pipeline_of(run, build)
    curve = call(client.evaluations.GetScoreCurve, evaluation_pb2.GetScoreCurveRequest(training_run=run_name))
    return ReportData(
        pipeline=pipeline,
        run=run,
        metrics=list_metrics(client, run_name),
        events=list_events(client, run_name),
        ingestion=_if_there(client.ingestions.GetIngestion, ingestion_pb2.GetIngestionRequest(name=pipeline.ingestion)),
        dataset=_if_there(client.datasets.GetDataset, dataset_pb2.GetDatasetRequest(name=pipeline.dataset)),
        corpus_build=build,
        corpus_report=_corpus_report(client, build_name),
        token_set=_if_there(client.token_sets.GetTokenSet, token_set_pb2.GetTokenSetRequest(name=pipeline.token_set)),
        tokenizer=_if_there(
            client.tokenizers.GetTokenizer, tokenizer_pb2.GetTokenizerRequest(name=build.status.tokenizer)
        ),
        checkpoints=sorted(
            pages(
                client.checkpoints.ListCheckpoints,
                checkpoint_pb2.ListCheckpointsRequest(parent=pipeline.parent, training_run=run_name, show_all=True),
                "checkpoints",
            ),
            key=lambda checkpoint: (checkpoint.step, checkpoint.epoch),
        ),
        curve=curve,
        differences=compare_ends(client, pipeline),
    )


def list_metrics(client: Client, name: str, *, after_step: int = 0) -> list[training_run_pb2.StepMetrics]:
    """Read all metric rows of a run by step."""
    rows: list[training_run_pb2.StepMetrics] = []
    request = training_run_pb2.ListStepMetricsRequest(name=name, after_step=after_step, page_size=METRICS_PAGE)
    while True:
        response = call(client.runs.ListStepMetrics, request)
        rows.extend(response.rows)
        if not response.more or not response.rows:
            return rows
        request.after_step = response.rows[-1].step


def list_events(client: Client, name: str) -> list[resource_pb2.Event]:
    """Read all events of a run, oldest first."""
    found: list[resource_pb2.Event] = []
    request = training_run_pb2.ListTrainingRunEventsRequest(name=name, page_size=EVENTS_PAGE)
    while True:
        response = call(client.runs.ListTrainingRunEvents, request)
        found.extend(response.events)
        if len(response.events) < EVENTS_PAGE:
            return found
        request.after_revision = response.last_revision


def compare_ends(client: Client, pipeline: Pipeline) -> list[evaluation_pb2.PairedDifference]:
    """Compare the first and the last evaluated checkpoint of a run, item by item; empty with fewer than two."""
    request = evaluation_pb2.ListEvaluationsRequest(parent=pipeline.parent, training_run=pipeline.run)
    done = [
        evaluation
        for evaluation in pages(client.evaluations.ListEvaluations, request, "evaluations")
        if evaluation.status.state == resource_pb2.JOB_STATE_SUCCEEDED
    ]
    done.sort(key=lambda evaluation: (evaluation.status.step, evaluation.metadata.revision))
    if len(done) < 2:
        return []
    ends = evaluation_pb2.CompareEvaluationsRequest(first=done[0].metadata.name, second=done[-1].metadata.name)
    return list(call(client.evaluations.CompareEvaluations, ends).differences)


def _if_there(method: Any, request: Any) -> Any:
    if not request.name:
        return None
    try:
        return call(method, request)
    except NotFound:
        return None


def _corpus_report(client: Client, build_name: str) -> dict[str, Any]:
    try:
        request = corpus_build_pb2.GetCorpusReportRequest(name=build_name)
        answer = call(client.corpus_builds.GetCorpusReport, request)
    except (FailedPrecondition, NotFound):
        return {}
    content: dict[str, Any] = MessageToDict(answer.content)
    return content
