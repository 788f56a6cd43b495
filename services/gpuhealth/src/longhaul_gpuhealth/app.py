"""Composition root of the gpuhealth service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import grpc
from longhaul.gpuhealth.v1 import node_health_pb2, node_health_pb2_grpc
from longhaul_core.cluster import open_cluster
from longhaul_core.rpc.service import ServiceContext, ServiceDefinition

from longhaul_gpuhealth.adapters.records import NodeRecords
from longhaul_gpuhealth.adapters.rules_source import RulesSource
from longhaul_gpuhealth.monitor.measures import Measures
from longhaul_gpuhealth.monitor.monitor import Monitor
from longhaul_gpuhealth.operations import Operations
from longhaul_gpuhealth.servicer import NodeHealthServicer
from longhaul_gpuhealth.settings import GpuHealthSettings

SERVICE_NAME = node_health_pb2.DESCRIPTOR.services_by_name["NodeHealthService"].full_name


async def build(context: ServiceContext) -> ServiceDefinition:
    """Wire the service."""
    settings = cast(GpuHealthSettings, context.settings)
    rules = RulesSource.open(settings.rules_file)
    records = NodeRecords(context.db, context.clock)
    cluster = open_cluster(settings.resolved_cluster_url, context.clock)
    monitor = Monitor(
        settings=settings,
        db=context.db,
        clock=context.clock,
        cluster=cluster,
        records=records,
        rules=rules,
        measures=Measures(context.metrics),
        address=context.address,
        hooks=settings.open_hooks(cluster),
    )
    servicer = NodeHealthServicer(
        db=context.db,
        clock=context.clock,
        records=records,
        operations=Operations(records, context.clock, settings.policy, settings.burn_in_peer_share),
        monitor=monitor,
        rules=rules,
        policy=settings.policy,
        silence_seconds=settings.silence_seconds,
    )

    def register(server: grpc.aio.Server) -> Sequence[str]:
        node_health_pb2_grpc.add_NodeHealthServiceServicer_to_server(servicer, server)
        return [SERVICE_NAME]

    async def watch_over_nodes() -> None:
        try:
            await monitor.run(context.stop)
        finally:
            await cluster.close()

    return ServiceDefinition(register=register, background=(watch_over_nodes,))
