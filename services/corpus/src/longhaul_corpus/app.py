"""Composition root of the corpus service."""

from collections.abc import Sequence
from typing import Any, cast

import grpc
from longhaul.corpus.v1 import (
    corpus_build_pb2,
    corpus_build_pb2_grpc,
    token_set_pb2,
    token_set_pb2_grpc,
    tokenizer_pb2,
    tokenizer_pb2_grpc,
)
from longhaul_core.db import Claim, ResourceRow
from longhaul_core.engine import open_engine
from longhaul_core.engine.protocol import Task
from longhaul_core.failpoints import Failpoints
from longhaul_core.ids import new_uid
from longhaul_core.metrics import Metrics
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.service import ServiceContext, ServiceDefinition
from prometheus_client import Gauge

from longhaul_corpus.adapters.builds import BuildMetrics, Builds
from longhaul_corpus.adapters.failpoints import Point
from longhaul_corpus.adapters.inputs import Inputs
from longhaul_corpus.adapters.reconciler import Reconciler
from longhaul_corpus.adapters.records import BUILD, TOKENIZER, context_of
from longhaul_corpus.adapters.requests import BuildRequests, TokenizerRequests, TokenSetRequests
from longhaul_corpus.adapters.runner import Runner, RunnerLimits, RunnerMetrics
from longhaul_corpus.adapters.tasks import WORKER_MODULES, run_step
from longhaul_corpus.adapters.tokenizers import Tokenizers, assign_tokenizer
from longhaul_corpus.adapters.upstream import Datasets
from longhaul_corpus.adapters.workspace import dump_context
from longhaul_corpus.domain.phases import PHASES
from longhaul_corpus.servicer import CorpusBuildServicer, TokenizerServicer, TokenSetServicer
from longhaul_corpus.settings import CorpusSettings

_STEP_BUCKETS_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0)


async def build(context: ServiceContext) -> ServiceDefinition:
    """Wire the service together."""
    settings, db = cast(CorpusSettings, context.settings), context.db
    failpoints = Failpoints.parse(settings.failpoints, Point)
    store_url = settings.resolved_object_store_url
    engine = open_engine(settings, preload=WORKER_MODULES)
    token = settings.api_token.get_secret_value() or None
    channel = connect(settings.ingest_address, token=token, tls_ca=settings.tls_ca)
    datasets = Datasets(channel, context.clock)
    inputs = Inputs(db, context.objects, datasets)

    def assign_build(row: ResourceRow, claim: Claim) -> tuple[Task, dict[str, Any]]:
        document = dump_context(context_of(row, store_url))
        return run_step, {"context": document, "phase": claim.phase, "item": claim.payload}

    def assign(row: ResourceRow, claim: Claim) -> tuple[Task, dict[str, Any]]:
        return assign_tokenizer(row, claim, store_url)

    owner = f"{context.address}/{new_uid()}"
    runner = Runner(
        db,
        engine,
        {BUILD: assign_build, TOKENIZER: assign},
        owner,
        _runner_metrics(context.metrics),
        RunnerLimits(settings.shard_lease_seconds, settings.shard_attempts),
        failpoints,
    )
    discard, metrics = context.objects.delete_prefix, _build_metrics(context.metrics)
    builds = Builds(db, context.clock, inputs, runner, discard, metrics, failpoints)
    tokenizers = Tokenizers(db, context.clock, inputs)
    reconciler = Reconciler(db, runner, datasets, {BUILD: builds, TOKENIZER: tokenizers}, _jobs_gauge(context.metrics))

    def register(server: grpc.aio.Server) -> Sequence[str]:
        build_requests = BuildRequests(db, context.objects, context.clock, reconciler.poke)
        corpus_build_pb2_grpc.add_CorpusBuildServiceServicer_to_server(CorpusBuildServicer(db, build_requests), server)
        token_set_requests = TokenSetRequests(db, context.objects, context.clock)
        token_set_pb2_grpc.add_TokenSetServiceServicer_to_server(TokenSetServicer(db, token_set_requests), server)
        tokenizer_requests = TokenizerRequests(
            db, context.objects, context.clock, engine, datasets, store_url, reconciler.poke
        )
        tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(TokenizerServicer(db, tokenizer_requests), server)
        return [
            corpus_build_pb2.DESCRIPTOR.services_by_name["CorpusBuildService"].full_name,
            token_set_pb2.DESCRIPTOR.services_by_name["TokenSetService"].full_name,
            tokenizer_pb2.DESCRIPTOR.services_by_name["TokenizerService"].full_name,
        ]

    async def work() -> None:
        try:
            await runner.run(context.stop)
        finally:
            await engine.close()

    async def reconcile() -> None:
        try:
            await reconciler.run(context.stop)
        finally:
            await channel.close(None)

    return ServiceDefinition(register=register, background=(work, reconcile), on_drain=runner.drain)


def _build_metrics(metrics: Metrics) -> BuildMetrics:
    return BuildMetrics(
        documents=metrics.counter("documents", "Documents of finished builds, by outcome.", ("outcome",)),
        tokens=metrics.counter("tokens", "Tokens of finished builds, by split.", ("split",)),
    )


def _jobs_gauge(metrics: Metrics) -> Gauge:
    return metrics.gauge("jobs", "Jobs that are not at their end, by kind and state.", ("kind", "state"))


def _runner_metrics(metrics: Metrics) -> RunnerMetrics:
    items = metrics.counter("items", "Work items that ended, by phase and outcome.", ("phase", "outcome"))
    for phase in PHASES:
        items.labels(phase=phase, outcome="done")  # shown as 0, so that the first item is an increase
    return RunnerMetrics(
        items=items,
        seconds=metrics.histogram(
            "item_seconds", "Time from claim to result of a work item.", ("phase",), _STEP_BUCKETS_SECONDS
        ),
        text_bytes=metrics.counter("text_bytes", "Bytes of text that phases over text have worked off.", ("phase",)),
    )
