"""Composition root of the evaluation service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import grpc
from longhaul.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc
from longhaul_core.failpoints import Failpoints
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.service import ServiceContext, ServiceDefinition

from longhaul_evaluation.adapters.failpoints import Point
from longhaul_evaluation.adapters.instruments import Instruments
from longhaul_evaluation.adapters.loops import EvaluationLoop, SuiteLoop
from longhaul_evaluation.adapters.reports import Reports
from longhaul_evaluation.adapters.scoreboard import Scoreboard
from longhaul_evaluation.adapters.scoring import Scoring
from longhaul_evaluation.adapters.suites import Followers, Suites
from longhaul_evaluation.adapters.upstream import Checkpoints, Runs, TaskLimits, Tasks, TokenSets
from longhaul_evaluation.adapters.waking import Alarm, Hints
from longhaul_evaluation.servicer import EvaluationServicer
from longhaul_evaluation.servicer_suites import EvaluationSuiteServicer
from longhaul_evaluation.settings import EvaluationSettings

_SERVICES = evaluation_pb2.DESCRIPTOR.services_by_name


async def build(context: ServiceContext) -> ServiceDefinition:
    """Wire the service."""
    settings = cast(EvaluationSettings, context.settings)
    db, clock = context.db, context.clock
    instruments = Instruments(context.metrics)
    failpoints = Failpoints.parse(settings.failpoints, Point)
    training, checkpoint, corpus = (
        _connect(settings, address)
        for address in (settings.training_address, settings.checkpoint_address, settings.corpus_address)
    )
    limits = TaskLimits(settings.score_gpus, settings.score_timeout_seconds, settings.score_retries)
    checkpoints, tasks, token_sets = Checkpoints(checkpoint), Tasks(training, limits), TokenSets(corpus)
    evaluation_alarm, suite_alarm = Alarm(context.stop), Alarm(context.stop)
    hints = Hints({"tasks": tasks.watch, "token sets": token_sets.watch}, evaluation_alarm, settings.retry_seconds)
    scoring = Scoring(
        db, context.objects, clock, checkpoints, token_sets, tasks, settings.attempts, instruments, failpoints
    )
    suites = Suites(db, clock, checkpoints, Runs(training), evaluation_alarm, failpoints)
    evaluation_loop = EvaluationLoop(
        db, scoring, evaluation_alarm, hints, instruments, settings.score_concurrency, settings.poll_seconds
    )
    suite_loop = SuiteLoop(db, suites, suite_alarm, Followers(suites, settings.retry_seconds), settings.poll_seconds)
    servicer = EvaluationServicer(db, clock, Reports(db, context.objects), evaluation_alarm)
    suite_servicer = EvaluationSuiteServicer(db, clock, suite_alarm)

    def register(server: grpc.aio.Server) -> Sequence[str]:
        evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server(servicer, server)
        evaluation_pb2_grpc.add_EvaluationSuiteServiceServicer_to_server(suite_servicer, server)
        return [_SERVICES[name].full_name for name in ("EvaluationService", "EvaluationSuiteService")]

    async def close() -> None:
        for channel in (training, checkpoint, corpus):
            await channel.close(None)

    scoreboard = Scoreboard(db, clock, context.metrics, Alarm(context.stop))
    loops = (evaluation_loop.run, suite_loop.run, scoreboard.run)
    return ServiceDefinition(register=register, background=loops, on_close=close)


def _connect(settings: EvaluationSettings, address: str) -> grpc.aio.Channel:
    token = settings.api_token.get_secret_value() or None
    return connect(address, token=token, tls_ca=settings.tls_ca)
