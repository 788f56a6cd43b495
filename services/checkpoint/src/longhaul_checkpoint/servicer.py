"""The checkpoint service's RPCs: validate, convert, delegate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
from longhaul.checkpoint.v1 import checkpoint_pb2 as pb
from longhaul.checkpoint.v1 import checkpoint_pb2_grpc
from longhaul.common.v1 import resource_pb2
from longhaul_core.db import Database, Page
from longhaul_core.db.session import Session
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import Collection, ResourceName, parse_parent
from longhaul_core.rpc.auth import current_principal, require_own_run
from longhaul_core.rpc.bookmarks import with_bookmarks
from longhaul_core.rpc.paging import page_size
from longhaul_core.rpc.watch import watch

from longhaul_checkpoint import convert
from longhaul_checkpoint.adapters import catalogue, records
from longhaul_checkpoint.adapters.collector import Collector
from longhaul_checkpoint.adapters.commits import Commits
from longhaul_checkpoint.adapters.comparison import Comparison
from longhaul_checkpoint.adapters.exports import Exporter
from longhaul_checkpoint.adapters.holds import Holds
from longhaul_checkpoint.adapters.imports import Importer
from longhaul_checkpoint.adapters.inspection import Inspector
from longhaul_checkpoint.domain.checkpoint import Identity
from longhaul_checkpoint.domain.retention import RetentionPolicy

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the servicer delegates to."""

    db: Database
    commits: Commits
    inspector: Inspector
    collector: Collector
    holds: Holds
    comparison: Comparison
    exporter: Exporter
    importer: Importer


class CheckpointServicer(checkpoint_pb2_grpc.CheckpointServiceServicer):
    """`longhaul.checkpoint.v1.CheckpointService`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def RegisterEpoch(self, request: pb.RegisterEpochRequest, context: Context) -> pb.RegisterEpochResponse:
        run = convert.run_of(request.training_run)
        resume = request.resume_checkpoint
        resume_id = convert.checkpoint_name_of(resume, "resume_checkpoint").id if resume else ""
        epoch = await self._parts.commits.register(run.project, run.id, request.epoch, resume_id)
        return pb.RegisterEpochResponse(epoch=epoch)

    async def BeginCheckpoint(self, request: pb.BeginCheckpointRequest, context: Context) -> pb.Checkpoint:
        require_own_run(request.training_run)
        run = convert.run_of(request.training_run)
        if request.world_size < 1:
            raise InvalidArgument("a world has at least one rank", violations=[("world_size", "is below 1")])
        identity = Identity(run.project, run.id, request.step, request.epoch)
        return convert.checkpoint_to_proto(await self._parts.commits.begin(identity, request.world_size))

    async def CommitCheckpoint(self, request: pb.CommitCheckpointRequest, context: Context) -> pb.Checkpoint:
        name = await self._own(request.name)
        row = await self._parts.commits.commit(
            name.project, name.id, request.epoch, convert.objects_of(request.parts), convert.description_of(request)
        )
        return convert.checkpoint_to_proto(row)

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: Context) -> pb.Checkpoint:
        name = convert.checkpoint_name_of(request.name)
        row = await self._parts.db.read(lambda session: catalogue.get(session, name.project, name.id))
        return convert.checkpoint_to_proto(row)

    async def GetLatestCheckpoint(self, request: pb.GetLatestCheckpointRequest, context: Context) -> pb.Checkpoint:
        run = convert.run_of(request.training_run)
        row = await self._parts.inspector.latest(run.project, run.id, request.maximum_step)
        return convert.checkpoint_to_proto(row)

    async def ListCheckpoints(self, request: pb.ListCheckpointsRequest, context: Context) -> pb.ListCheckpointsResponse:
        project, run = convert.filter_of(request.parent, request.training_run)
        size = page_size(request.page_size)

        def look(session: Session) -> Page:
            return catalogue.page(
                session, project, run, page_size=size, page_token=request.page_token, show_all=request.show_all
            )

        page = await self._parts.db.read(look)
        return pb.ListCheckpointsResponse(
            checkpoints=[convert.checkpoint_to_proto(row) for row in page.rows],
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchCheckpoints(
        self, request: pb.WatchCheckpointsRequest, context: Context
    ) -> AsyncIterator[pb.WatchCheckpointsResponse]:
        project, run = convert.filter_of(request.parent, request.training_run)
        rows = watch(
            self._parts.db, records.CHECKPOINT_KIND, project, after_revision=request.after_revision, context=context
        )
        revision = request.after_revision
        async for row in with_bookmarks(rows):
            if row is None:
                yield pb.WatchCheckpointsResponse(type=resource_pb2.CHANGE_TYPE_BOOKMARK, revision=revision)
                continue
            revision = row.revision
            if not run or row.spec["run"] == run:
                yield convert.change_to_proto(row)

    async def PinCheckpoint(self, request: pb.PinCheckpointRequest, context: Context) -> pb.Checkpoint:
        name = convert.checkpoint_name_of(request.name)
        return convert.checkpoint_to_proto(await self._parts.holds.pin(name, True))

    async def UnpinCheckpoint(self, request: pb.UnpinCheckpointRequest, context: Context) -> pb.Checkpoint:
        name = convert.checkpoint_name_of(request.name)
        return convert.checkpoint_to_proto(await self._parts.holds.pin(name, False))

    async def LeaseCheckpoint(self, request: pb.LeaseCheckpointRequest, context: Context) -> pb.Checkpoint:
        name = convert.checkpoint_name_of(request.name)
        seconds = request.duration.ToTimedelta().total_seconds()
        return convert.checkpoint_to_proto(await self._parts.holds.lease(name, request.holder, seconds))

    async def ReleaseCheckpoint(self, request: pb.ReleaseCheckpointRequest, context: Context) -> pb.Checkpoint:
        name = convert.checkpoint_name_of(request.name)
        return convert.checkpoint_to_proto(await self._parts.holds.release(name, request.holder))

    async def RecordCheckpointMetrics(
        self, request: pb.RecordCheckpointMetricsRequest, context: Context
    ) -> pb.Checkpoint:
        name = convert.checkpoint_name_of(request.name)
        return convert.checkpoint_to_proto(await self._parts.holds.record(name, dict(request.metrics)))

    async def VerifyCheckpoint(
        self, request: pb.VerifyCheckpointRequest, context: Context
    ) -> pb.VerifyCheckpointResponse:
        name = await self._own(request.name)
        return convert.inspection_to_proto(await self._parts.inspector.verify(name.project, name.id))

    async def SetRetention(self, request: pb.SetRetentionRequest, context: Context) -> pb.Retention:
        run = convert.run_of(request.retention.training_run, "retention.training_run")
        policy = convert.policy_of(request.retention)
        await self._parts.collector.set_policy(run.project, run.id, policy)
        return convert.policy_to_proto(policy, run)

    async def GetRetention(self, request: pb.GetRetentionRequest, context: Context) -> pb.Retention:
        run = convert.run_of(request.training_run)
        row = await self._parts.db.read(lambda session: catalogue.find_run(session, run.project, run.id))
        return convert.policy_to_proto(records.policy_of(row) if row else RetentionPolicy(), run)

    async def CollectGarbage(self, request: pb.CollectGarbageRequest, context: Context) -> pb.CollectGarbageResponse:
        run = convert.run_of(request.training_run)
        decided = await self._parts.collector.collect(run.project, run.id, dry_run=request.dry_run)
        return convert.round_to_proto(decided, run.project)

    async def DiffCheckpoints(self, request: pb.DiffCheckpointsRequest, context: Context) -> pb.DiffCheckpointsResponse:
        first = convert.checkpoint_name_of(request.first, "first")
        second = convert.checkpoint_name_of(request.second, "second")
        return convert.diff_to_proto(*await self._parts.comparison.diff(first, second))

    async def ExportCheckpoint(
        self, request: pb.ExportCheckpointRequest, context: Context
    ) -> pb.ExportCheckpointResponse:
        name = convert.checkpoint_name_of(request.name)
        row = await self._parts.db.read(lambda session: catalogue.get(session, name.project, name.id))
        task, prefix = await self._parts.exporter.start(records.checkpoint_of(row), request.format)
        return pb.ExportCheckpointResponse(task=task, prefix=prefix)

    async def GetCheckpointEnvironment(
        self, request: pb.GetCheckpointEnvironmentRequest, context: Context
    ) -> pb.GetCheckpointEnvironmentResponse:
        name = convert.checkpoint_name_of(request.name)
        return pb.GetCheckpointEnvironmentResponse(document=await self._parts.comparison.environment(name))

    async def ImportCheckpoint(
        self, request: pb.ImportCheckpointRequest, context: Context
    ) -> pb.ImportCheckpointResponse:
        project = parse_parent(request.parent)
        row, task = await self._parts.importer.advance(project, request.model, request.source, retry=request.retry)
        return pb.ImportCheckpointResponse(checkpoint=convert.checkpoint_to_proto(row), task=task)

    async def _own(self, name: str) -> ResourceName:
        """The name of a checkpoint; a training pod gets at those of its own run only."""
        found = convert.checkpoint_name_of(name)
        if current_principal().pod is not None:
            row = await self._parts.db.read(lambda session: catalogue.get(session, found.project, found.id))
            require_own_run(str(ResourceName(found.project, Collection.TRAINING_RUNS, row.spec["run"])))
        return found
