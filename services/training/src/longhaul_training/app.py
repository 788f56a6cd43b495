"""Composition root of the training service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import grpc
from longhaul.training.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    experiment_pb2,
    experiment_pb2_grpc,
    plan_pb2,
    plan_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
    task_pb2,
    task_pb2_grpc,
    training_run_pb2,
    training_run_pb2_grpc,
)
from longhaul_core.cluster import open_cluster
from longhaul_core.cluster.liveness import LivenessRule
from longhaul_core.rpc.auth import pod_key
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.service import ServiceContext, ServiceDefinition

from longhaul_training.adapters.attention import Attention
from longhaul_training.adapters.burn_ins import BurnInKeeper
from longhaul_training.adapters.checkpoints import Checkpoints
from longhaul_training.adapters.cluster_view import ClusterView, ViewOptions
from longhaul_training.adapters.controller import Controller, Parts
from longhaul_training.adapters.controller_metrics import ControllerMetrics
from longhaul_training.adapters.executor import Executor
from longhaul_training.adapters.experiment_store import ExperimentKeeper, ExperimentStore
from longhaul_training.adapters.hub import AgentHub
from longhaul_training.adapters.leadership import Leadership
from longhaul_training.adapters.metric_journal import MetricJournal
from longhaul_training.adapters.node_health import NodeHealth
from longhaul_training.adapters.pod_environment import PodEnvironment, pod_environment
from longhaul_training.adapters.pod_identity import load_identity
from longhaul_training.adapters.project_store import ProjectStore
from longhaul_training.adapters.queue_reader import QueueReader
from longhaul_training.adapters.reception import Reception
from longhaul_training.adapters.reference_keeper import ReferenceKeeper
from longhaul_training.adapters.report_store import ReportStore
from longhaul_training.adapters.run_store import RunStore
from longhaul_training.adapters.task_store import TaskStore
from longhaul_training.adapters.token_sets import TokenSets
from longhaul_training.convert.agents import rows_of
from longhaul_training.servicer.agents import AgentServicer
from longhaul_training.servicer.experiments import ExperimentServicer
from longhaul_training.servicer.projects import PlanServicer, ProjectServicer
from longhaul_training.servicer.runs import TrainingRunServicer
from longhaul_training.servicer.tasks import TaskServicer
from longhaul_training.settings import TrainingSettings

SERVICES = (
    training_run_pb2.DESCRIPTOR.services_by_name["TrainingRunService"],
    agent_pb2.DESCRIPTOR.services_by_name["AgentService"],
    task_pb2.DESCRIPTOR.services_by_name["TaskService"],
    project_pb2.DESCRIPTOR.services_by_name["ProjectService"],
    plan_pb2.DESCRIPTOR.services_by_name["PlanService"],
    experiment_pb2.DESCRIPTOR.services_by_name["ExperimentService"],
)


async def build(context: ServiceContext) -> ServiceDefinition:
    """Wires the service together."""
    settings = cast(TrainingSettings, context.settings)
    db, objects, clock, stop = context.db, context.objects, context.clock, context.stop
    wakeup = asyncio.Event()
    token = settings.api_token.get_secret_value() or None
    corpus, checkpoint, gpuhealth = (
        connect(address, token=token, tls_ca=settings.tls_ca)
        for address in (settings.corpus_address, settings.checkpoint_address, settings.gpuhealth_address)
    )
    runs, tasks, projects = RunStore(db, clock), TaskStore(db, clock), ProjectStore(db, clock)
    reports, experiments = ReportStore(db, objects, clock, MetricJournal(objects, rows_of)), ExperimentStore(db, clock)
    identity = await load_identity(db, clock.now(), pod_key(settings))
    await projects.ensure_default()

    leadership = Leadership(db, clock, context.address, settings.lease_seconds)
    attention = Attention(clock)
    hub = AgentHub(attention, settings.reconnect_seconds, wakeup.set)
    cluster = open_cluster(settings.resolved_cluster_url)
    environment = pod_environment(settings, context.address, identity.installation)
    view = ClusterView(cluster, clock, wakeup.set, _view_options(settings, environment))
    health = NodeHealth(gpuhealth, clock, wakeup.set)
    metrics = ControllerMetrics(context.metrics)
    executor = Executor(
        cluster,
        hub,
        Checkpoints(checkpoint),
        health,
        runs,
        reports,
        leadership,
        identity,
        clock,
        environment,
        wakeup.set,
    )
    parts = Parts(
        cluster=view,
        hub=hub,
        health=health,
        token_sets=TokenSets(corpus, clock, stop, wakeup.set),
        executor=executor,
        leadership=leadership,
        runs=runs,
        tasks=tasks,
        metrics=metrics,
    )
    controller = Controller(db, clock, parts, settings.limits(), wakeup)
    keeper = ExperimentKeeper(experiments, reports, leadership, clock)
    references = ReferenceKeeper(db, runs, reports, leadership, clock)
    burn_ins = BurnInKeeper(health, tasks, objects, leadership, clock)

    def leadership_changed() -> None:
        metrics.lead(leadership.term is not None)
        hub.redirect_all("")
        wakeup.set()

    leadership.on_change(leadership_changed)
    reception = Reception(runs, reports, hub, identity, leadership, wakeup.set)

    def register(server: grpc.aio.Server) -> Sequence[str]:
        training_run_pb2_grpc.add_TrainingRunServiceServicer_to_server(
            TrainingRunServicer(db, objects, clock, runs, reports, projects, hub, QueueReader(db)), server
        )
        agent_pb2_grpc.add_AgentServiceServicer_to_server(AgentServicer(leadership, reception, hub, clock), server)
        task_pb2_grpc.add_TaskServiceServicer_to_server(TaskServicer(db, tasks, projects), server)
        project_pb2_grpc.add_ProjectServiceServicer_to_server(ProjectServicer(db, projects), server)
        plan_pb2_grpc.add_PlanServiceServicer_to_server(PlanServicer(), server)
        experiment_pb2_grpc.add_ExperimentServiceServicer_to_server(
            ExperimentServicer(db, experiments, projects), server
        )
        return [service.full_name for service in SERVICES]

    async def close() -> None:
        await stop.wait()
        await cluster.close()
        for channel in (corpus, checkpoint, gpuhealth):
            await channel.close(None)

    async def campaign() -> None:
        await leadership.run(stop)

    async def reconcile() -> None:
        await controller.run(stop)

    async def follow_cluster() -> None:
        await view.run(stop)

    async def follow_health() -> None:
        await health.run(stop)

    async def listen() -> None:
        await attention.run(stop)

    async def keep_experiments() -> None:
        await keeper.run(stop)

    async def keep_references() -> None:
        await references.run(stop)

    async def keep_burn_ins() -> None:
        await burn_ins.run(stop)

    return ServiceDefinition(
        register=register,
        background=(
            campaign,
            reconcile,
            follow_cluster,
            follow_health,
            listen,
            keep_experiments,
            keep_references,
            keep_burn_ins,
            close,
        ),
        on_drain=leadership.resign,
    )


def _view_options(settings: TrainingSettings, environment: PodEnvironment) -> ViewOptions:
    return ViewOptions(
        installation=environment.installation,
        tolerations=environment.tolerations,
        pool_label=settings.pool_label,
        liveness=LivenessRule(silence=settings.node_dead_seconds),
    )
