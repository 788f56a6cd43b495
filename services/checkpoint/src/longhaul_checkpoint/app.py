"""Composition root of the checkpoint service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import grpc
from longhaul.checkpoint.v1 import checkpoint_pb2, checkpoint_pb2_grpc
from longhaul_core.failpoints import Failpoints
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.service import ServiceContext, ServiceDefinition

from longhaul_checkpoint.adapters.collector import Collector, CollectorLimits
from longhaul_checkpoint.adapters.commits import Commits
from longhaul_checkpoint.adapters.comparison import Comparison
from longhaul_checkpoint.adapters.exports import Exporter
from longhaul_checkpoint.adapters.failpoints import Point
from longhaul_checkpoint.adapters.holds import Holds
from longhaul_checkpoint.adapters.imports import Importer
from longhaul_checkpoint.adapters.inspection import Inspector
from longhaul_checkpoint.adapters.instruments import Instruments
from longhaul_checkpoint.adapters.loops import Retention, Scrubber
from longhaul_checkpoint.adapters.settling import Settler
from longhaul_checkpoint.adapters.survey import Survey
from longhaul_checkpoint.adapters.verification import PartVerifier
from longhaul_checkpoint.servicer import CheckpointServicer, Parts
from longhaul_checkpoint.settings import CheckpointSettings

SERVICE_NAME = checkpoint_pb2.DESCRIPTOR.services_by_name["CheckpointService"].full_name


async def build(context: ServiceContext) -> ServiceDefinition:
    """Wire the service; what a crash left in doubt is settled before the first call is answered."""
    settings = cast(CheckpointSettings, context.settings)
    db, store, clock = context.db, context.objects, context.clock
    failpoints = Failpoints.parse(settings.failpoints, Point)
    instruments = Instruments(context.metrics)
    verifier = PartVerifier(store, settings.verify_threads)
    settler = Settler(db, store, clock)
    inspector = Inspector(db, store, clock, verifier, settler, instruments, settings.reverify_seconds)
    limits = CollectorLimits(settings.stale_seconds, settings.abandoned_seconds)
    collector = Collector(db, store, clock, settler, inspector, limits, instruments, failpoints)
    commits = Commits(db, store, clock, verifier, settler, instruments, failpoints)
    training = connect(
        settings.training_address, token=settings.api_token.get_secret_value() or None, tls_ca=settings.tls_ca
    )
    servicer = CheckpointServicer(
        Parts(
            db=db,
            commits=commits,
            inspector=inspector,
            collector=collector,
            holds=Holds(db, clock),
            comparison=Comparison(db, store),
            exporter=Exporter(training),
            importer=Importer(db, store, commits, training),
        )
    )
    await settler.settle_all()
    retention = Retention(db, clock, collector, settings.full_round_seconds)
    survey = Survey(db, clock, context.metrics)
    scrubber = Scrubber(db, clock, inspector, settings.scrub_seconds)

    def register(server: grpc.aio.Server) -> Sequence[str]:
        checkpoint_pb2_grpc.add_CheckpointServiceServicer_to_server(servicer, server)
        return [SERVICE_NAME]

    async def retain() -> None:
        await retention.run(context.stop, settings.retention_interval_seconds)

    async def scrub() -> None:
        await scrubber.run(context.stop, settings.scrub_interval_seconds)

    async def look() -> None:
        await survey.run(context.stop)

    async def close() -> None:
        await commits.close()
        await inspector.close()
        await training.close(None)
        verifier.close()

    return ServiceDefinition(register=register, background=(retain, scrub, look), on_close=close)
