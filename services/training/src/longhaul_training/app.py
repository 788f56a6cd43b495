"""Composition root of the training service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

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
from longhaul_core.cluster import Cluster, open_cluster
from longhaul_core.cluster.liveness import LivenessRule
from longhaul_core.rpc.auth import pod_key
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.service import ServiceContext, ServiceDefinition

from longhaul_training.adapters.attention import Attention
from longhaul_training.adapters.burn_ins import BurnInKeeper
from longhaul_training.adapters.checkpoints import Checkpoints
from longhaul_training.adapters.cluster_view import ClusterView, ViewOptions
from longhaul_training.adapters.controller import Controller
from longhaul_training.adapters.controller_metrics import ControllerMetrics
from longhaul_training.adapters.controller_parts import Parts
from longhaul_training.adapters.executor import Executor
from longhaul_training.adapters.experiment_store import ExperimentKeeper, ExperimentStore
from longhaul_training.adapters.hub import AgentHub
from longhaul_training.adapters.leadership import Leadership
from longhaul_training.adapters.metric_journal import MetricJournal
from longhaul_training.adapters.node_health import NodeHealth
from longhaul_training.adapters.pod_environment import PodEnvironment, pod_environment
from longhaul_training.adapters.pod_identity import PodIdentity, load_identity
from longhaul_training.adapters.project_store import ProjectStore
from longhaul_training.adapters.queue_reader import QueueReader
from longhaul_training.adapters.reception import Reception
from longhaul_training.adapters.reference_keeper import ReferenceKeeper
from longhaul_training.adapters.report_store import ReportStore
from longhaul_training.adapters.run_logs import RunLogs
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


@dataclass(frozen=True, slots=True)
class _Stores:
    """Records of the service and the key of its pods."""

    runs: RunStore
    tasks: TaskStore
    projects: ProjectStore
    reports: ReportStore
    experiments: ExperimentStore
    identity: PodIdentity


@dataclass(frozen=True, slots=True)
class _Channels:
    """Ways to the services that training asks."""

    corpus: grpc.aio.Channel
    checkpoint: grpc.aio.Channel
    gpuhealth: grpc.aio.Channel

    async def close(self) -> None:
        for channel in (self.corpus, self.checkpoint, self.gpuhealth):
            await channel.close(None)


@dataclass(frozen=True, slots=True)
class _Leader:
    """What reconciles, on the replica that leads, and its loops."""

    leadership: Leadership
    hub: AgentHub
    cluster: Cluster
    reception: Reception
    loops: tuple[Callable[[], Coroutine[Any, Any, None]], ...]


async def build(context: ServiceContext) -> ServiceDefinition:
    """Wires the service together."""
    settings = cast(TrainingSettings, context.settings)
    stores, channels = await _open_stores(context), _open_channels(settings)
    cluster = open_cluster(settings.resolved_cluster_url)
    leader = _make_leader(context, stores, channels, cluster)

    async def close() -> None:
        await cluster.close()
        await channels.close()

    return ServiceDefinition(
        register=partial(_register, context, stores, leader),
        background=leader.loops,
        on_drain=leader.leadership.resign,
        on_close=close,
    )


async def _open_stores(context: ServiceContext) -> _Stores:
    db, objects, clock = context.db, context.objects, context.clock
    stores = _Stores(
        runs=RunStore(db, clock),
        tasks=TaskStore(db, clock),
        projects=ProjectStore(db, clock),
        reports=ReportStore(db, objects, clock, MetricJournal(objects, rows_of)),
        experiments=ExperimentStore(db, clock),
        identity=await load_identity(db, clock.now(), pod_key(context.settings)),
    )
    await stores.projects.ensure_default()
    return stores


def _open_channels(settings: TrainingSettings) -> _Channels:
    token = settings.api_token.get_secret_value() or None
    return _Channels(
        corpus=connect(settings.corpus_address, token=token, tls_ca=settings.tls_ca),
        checkpoint=connect(settings.checkpoint_address, token=token, tls_ca=settings.tls_ca),
        gpuhealth=connect(settings.gpuhealth_address, token=token, tls_ca=settings.tls_ca),
    )


def _make_leader(context: ServiceContext, stores: _Stores, channels: _Channels, cluster: Cluster) -> _Leader:
    settings = cast(TrainingSettings, context.settings)
    db, clock, stop = context.db, context.clock, context.stop
    wakeup = asyncio.Event()
    leadership = Leadership(db, clock, context.address, settings.lease_seconds)
    attention = Attention(clock)
    hub = AgentHub(attention, settings.reconnect_seconds, wakeup.set)
    environment = pod_environment(settings, context.address, stores.identity.installation)
    view = ClusterView(cluster, clock, wakeup.set, _view_options(settings, environment))
    health = NodeHealth(channels.gpuhealth, clock, wakeup.set)
    metrics = ControllerMetrics(context.metrics)
    executor = Executor(
        cluster,
        hub,
        Checkpoints(channels.checkpoint),
        health,
        stores.runs,
        stores.reports,
        leadership,
        stores.identity,
        clock,
        environment,
        wakeup.set,
    )
    parts = Parts(
        cluster=view,
        hub=hub,
        health=health,
        token_sets=TokenSets(channels.corpus, clock, stop, wakeup.set),
        executor=executor,
        leadership=leadership,
        runs=stores.runs,
        tasks=stores.tasks,
        metrics=metrics,
    )

    def leadership_changed() -> None:
        metrics.lead(leadership.term is not None)
        hub.redirect_all("")
        wakeup.set()

    leadership.on_change(leadership_changed)
    workers = (
        leadership,
        Controller(db, clock, parts, settings.limits(), wakeup),
        view,
        health,
        attention,
        ExperimentKeeper(stores.experiments, stores.reports, leadership, clock),
        ReferenceKeeper(db, stores.runs, stores.reports, leadership, clock),
        BurnInKeeper(health, stores.tasks, context.objects, leadership, clock),
    )
    reception = Reception(stores.runs, stores.reports, hub, stores.identity, leadership, wakeup.set)
    return _Leader(leadership, hub, cluster, reception, tuple(partial(worker.run, stop) for worker in workers))


def _register(context: ServiceContext, stores: _Stores, leader: _Leader, server: grpc.aio.Server) -> Sequence[str]:
    db, clock = context.db, context.clock
    runs, projects, hub = stores.runs, stores.projects, leader.hub
    logs = RunLogs(context.objects, leader.cluster, projects, clock)
    image = cast(TrainingSettings, context.settings).trainer_image
    training_run_pb2_grpc.add_TrainingRunServiceServicer_to_server(
        TrainingRunServicer(db, logs, clock, runs, stores.reports, projects, hub, QueueReader(db), image), server
    )
    agent_pb2_grpc.add_AgentServiceServicer_to_server(
        AgentServicer(leader.leadership, leader.reception, hub, clock), server
    )
    task_pb2_grpc.add_TaskServiceServicer_to_server(TaskServicer(db, stores.tasks, projects), server)
    project_pb2_grpc.add_ProjectServiceServicer_to_server(ProjectServicer(db, projects), server)
    plan_pb2_grpc.add_PlanServiceServicer_to_server(PlanServicer(), server)
    experiment_pb2_grpc.add_ExperimentServiceServicer_to_server(
        ExperimentServicer(db, stores.experiments, projects, image), server
    )
    return [service.full_name for service in SERVICES]


def _view_options(settings: TrainingSettings, environment: PodEnvironment) -> ViewOptions:
    return ViewOptions(
        installation=environment.installation,
        tolerations=environment.tolerations,
        pool_label=settings.pool_label,
        liveness=LivenessRule(silence=settings.node_dead_seconds),
    )
