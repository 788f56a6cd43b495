"""Composition root of the ingest service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import grpc
from longhaul.ingest.v1 import (
    dataset_pb2,
    dataset_pb2_grpc,
    ingestion_pb2,
    ingestion_pb2_grpc,
    upload_pb2,
    upload_pb2_grpc,
)
from longhaul_core.engine import open_engine
from longhaul_core.failpoints import Failpoints
from longhaul_core.ids import new_uid
from longhaul_core.rpc.service import ServiceContext, ServiceDefinition

from longhaul_ingest.adapters.catalogue import Catalogue
from longhaul_ingest.adapters.failpoints import Point
from longhaul_ingest.adapters.measures import IngestMeasures
from longhaul_ingest.adapters.runner import Runner
from longhaul_ingest.adapters.tasks import WORKER_MODULE
from longhaul_ingest.adapters.uploads import Uploads
from longhaul_ingest.adapters.world import Limits, World
from longhaul_ingest.servicer import DatasetServicer, IngestionServicer
from longhaul_ingest.servicer_uploads import UploadServicer
from longhaul_ingest.settings import IngestSettings

SERVICES = (
    ingestion_pb2.DESCRIPTOR.services_by_name["IngestionService"].full_name,
    dataset_pb2.DESCRIPTOR.services_by_name["DatasetService"].full_name,
    upload_pb2.DESCRIPTOR.services_by_name["UploadService"].full_name,
)


async def build(context: ServiceContext) -> ServiceDefinition:
    """Wire the service."""
    settings = cast(IngestSettings, context.settings)
    engine = open_engine(settings, preload=[WORKER_MODULE])
    world = World(
        db=context.db,
        objects=context.objects,
        engine=engine,
        clock=context.clock,
        measures=IngestMeasures(context.metrics),
        failpoints=Failpoints.parse(settings.failpoints, Point),
        stop=context.stop,
    )
    limits = Limits(
        owner=f"{context.address}/{new_uid()[:12]}",
        store_url=settings.resolved_object_store_url,
        lease_seconds=settings.shard_lease_seconds,
        shard_attempts=settings.shard_attempts,
        poll_seconds=settings.poll_seconds,
    )
    runner = Runner(world, limits)
    catalogue = Catalogue(context.db, context.objects, context.clock)
    uploads = Uploads(context.objects, settings.resolved_object_store_url)

    def register(server: grpc.aio.Server) -> Sequence[str]:
        ingestion_pb2_grpc.add_IngestionServiceServicer_to_server(IngestionServicer(context.db, catalogue), server)
        dataset_pb2_grpc.add_DatasetServiceServicer_to_server(DatasetServicer(context.db, catalogue), server)
        upload_pb2_grpc.add_UploadServiceServicer_to_server(
            UploadServicer(uploads, settings.upload_maximum_bytes), server
        )
        return SERVICES

    async def work() -> None:
        try:
            await runner.run()
        finally:
            await engine.close()

    return ServiceDefinition(register=register, background=[work], on_drain=runner.drain)
