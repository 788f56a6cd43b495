"""The other services as evaluation uses them. Errors come as `LonghaulError`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import Enum

import grpc
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from longhaul.checkpoint.v1 import checkpoint_pb2, checkpoint_pb2_grpc
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import token_set_pb2, token_set_pb2_grpc
from longhaul.training.v1 import task_pb2, task_pb2_grpc, training_run_pb2, training_run_pb2_grpc
from longhaul_core.rpc.client import rpc_errors
from longhaul_core.tasks import ManifestReference, ScoreArguments

LEASE_SECONDS = 600
LIST_PAGE_SIZE = 500


class Availability(Enum):
    """What a checkpoint is good for."""

    PENDING = "pending"  # begun, not committed
    USABLE = "usable"
    DAMAGED = "damaged"
    GONE = "gone"


_AVAILABILITY = {
    checkpoint_pb2.CHECKPOINT_STATE_BEGUN: Availability.PENDING,
    checkpoint_pb2.CHECKPOINT_STATE_COMMITTED: Availability.USABLE,
    checkpoint_pb2.CHECKPOINT_STATE_DAMAGED: Availability.DAMAGED,
}


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """A checkpoint of the store."""

    name: str
    training_run: str
    step: int
    epoch: int
    availability: Availability
    manifest_key: str
    digest: str
    message: str
    was_committed: bool


class Checkpoints:
    """The checkpoint service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = checkpoint_pb2_grpc.CheckpointServiceStub(channel)

    async def get(self, name: str) -> CheckpointView:
        """Return a checkpoint. Raises NotFound."""
        with rpc_errors():
            return _view(await self._stub.GetCheckpoint(checkpoint_pb2.GetCheckpointRequest(name=name)))

    async def lease(self, name: str, holder: str) -> CheckpointView:
        """Keep a checkpoint for `LEASE_SECONDS` from now. Raises NotFound, FailedPrecondition (not committed)."""
        request = checkpoint_pb2.LeaseCheckpointRequest(
            name=name, holder=holder, duration=Duration(seconds=LEASE_SECONDS)
        )
        with rpc_errors():
            return _view(await self._stub.LeaseCheckpoint(request))

    async def release(self, name: str, holder: str) -> None:
        """Let a checkpoint go. Raises NotFound."""
        with rpc_errors():
            await self._stub.ReleaseCheckpoint(checkpoint_pb2.ReleaseCheckpointRequest(name=name, holder=holder))

    async def record(self, name: str, metrics: Mapping[str, float]) -> None:
        """Add scores to a checkpoint. Raises NotFound, FailedPrecondition (not committed)."""
        request = checkpoint_pb2.RecordCheckpointMetricsRequest(name=name, metrics=metrics)
        with rpc_errors():
            await self._stub.RecordCheckpointMetrics(request)

    async def list(self, project: str, training_run: str) -> list[CheckpointView]:
        """Return the committed checkpoints of a run, deleted ones not."""
        found: list[CheckpointView] = []
        token = ""
        while True:
            request = checkpoint_pb2.ListCheckpointsRequest(
                parent=f"projects/{project}",
                training_run=training_run,
                page_size=LIST_PAGE_SIZE,
                page_token=token,
            )
            with rpc_errors():
                page = await self._stub.ListCheckpoints(request)
            found += [_view(checkpoint) for checkpoint in page.checkpoints]
            token = page.next_page_token
            if not token:
                return found

    async def watch(
        self, project: str, training_run: str, after_revision: int
    ) -> AsyncIterator[tuple[CheckpointView | None, int]]:
        """Yield changed checkpoints with the revision to resume after; None where only the revision moved."""
        request = checkpoint_pb2.WatchCheckpointsRequest(
            parent=f"projects/{project}", training_run=training_run, after_revision=after_revision
        )
        with rpc_errors():
            async for response in self._stub.WatchCheckpoints(request):
                bookmark = response.type == resource_pb2.CHANGE_TYPE_BOOKMARK
                yield None if bookmark else _view(response.checkpoint), response.revision


class RunState(Enum):
    """What a suite asks of its run."""

    OPEN = "open"
    ENDED = "ended"
    FAILED = "failed"  # ended, but may be retried


_ENDED = {training_run_pb2.TRAINING_RUN_STATE_SUCCEEDED, training_run_pb2.TRAINING_RUN_STATE_CANCELLED}


class Runs:
    """The runs of the training service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = training_run_pb2_grpc.TrainingRunServiceStub(channel)

    async def state(self, name: str) -> RunState:
        """Return whether a run has ended. Raises NotFound."""
        with rpc_errors():
            run = await self._stub.GetTrainingRun(training_run_pb2.GetTrainingRunRequest(name=name))
        if run.status.state == training_run_pb2.TRAINING_RUN_STATE_FAILED:
            return RunState.FAILED
        return RunState.ENDED if run.status.state in _ENDED else RunState.OPEN


class TokenSets:
    """The corpus service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = token_set_pb2_grpc.TokenSetServiceStub(channel)

    async def get(self, name: str) -> ManifestReference:
        """Return where a committed token set is. Raises NotFound (not committed yet)."""
        with rpc_errors():
            found = await self._stub.GetTokenSet(token_set_pb2.GetTokenSetRequest(name=name))
        return ManifestReference(name=name, manifest_key=found.manifest_key, digest=found.digest)

    async def watch(self, project: str) -> AsyncIterator[None]:
        """Yield whenever a token set of a project changed."""
        request = token_set_pb2.WatchTokenSetsRequest(parent=f"projects/{project}")
        with rpc_errors():
            async for _ in self._stub.WatchTokenSets(request):
                yield None


class TaskState(Enum):
    """What a score task is doing."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


_TASK_STATES = {
    resource_pb2.JOB_STATE_RUNNING: TaskState.RUNNING,
    resource_pb2.JOB_STATE_CANCELLING: TaskState.RUNNING,
    resource_pb2.JOB_STATE_SUCCEEDED: TaskState.SUCCEEDED,
    resource_pb2.JOB_STATE_FAILED: TaskState.FAILED,
    resource_pb2.JOB_STATE_CANCELLED: TaskState.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task of the training service."""

    state: TaskState
    reason: str
    message: str
    pending: str


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """What every score task gets."""

    gpus: int
    timeout_seconds: int
    retries: int


class Tasks:
    """The tasks of the training service."""

    def __init__(self, channel: grpc.aio.Channel, limits: TaskLimits) -> None:
        self._stub = task_pb2_grpc.TaskServiceStub(channel)
        self._limits = limits

    async def create(self, name: str, arguments: ScoreArguments, result_key: str) -> TaskView:
        """Ask for a score task; the same name again is the same task."""
        _, project, _, identifier = name.split("/")
        request = task_pb2.CreateTaskRequest(
            parent=f"projects/{project}",
            task_id=identifier,
            spec=task_pb2.TaskSpec(
                kind=task_pb2.TASK_KIND_SCORE,
                arguments=json_format.ParseDict(arguments.model_dump(mode="json"), Struct()),
                result_key=result_key,
                gpus=self._limits.gpus,
                timeout=Duration(seconds=self._limits.timeout_seconds),
                retries=self._limits.retries,
            ),
        )
        with rpc_errors():
            return _task(await self._stub.CreateTask(request))

    async def get(self, name: str) -> TaskView:
        """Return a task. Raises NotFound."""
        with rpc_errors():
            return _task(await self._stub.GetTask(task_pb2.GetTaskRequest(name=name)))

    async def cancel(self, name: str) -> TaskView:
        """End a task. Raises NotFound."""
        with rpc_errors():
            return _task(await self._stub.CancelTask(task_pb2.CancelTaskRequest(name=name)))

    async def watch(self, project: str) -> AsyncIterator[None]:
        """Yield whenever a task of a project changed."""
        with rpc_errors():
            async for _ in self._stub.WatchTasks(task_pb2.WatchTasksRequest(parent=f"projects/{project}")):
                yield None


def _view(checkpoint: checkpoint_pb2.Checkpoint) -> CheckpointView:
    return CheckpointView(
        name=checkpoint.metadata.name,
        training_run=checkpoint.training_run,
        step=checkpoint.step,
        epoch=checkpoint.epoch,
        availability=_AVAILABILITY.get(checkpoint.state, Availability.GONE),
        manifest_key=checkpoint.manifest_key,
        digest=checkpoint.digest,
        message=checkpoint.reason.message,
        was_committed=checkpoint.HasField("commit_time"),
    )


def _task(task: task_pb2.Task) -> TaskView:
    status = task.status
    return TaskView(
        state=_TASK_STATES.get(status.state, TaskState.QUEUED),
        reason=status.reason.code,
        message=status.reason.message,
        pending=status.pending_reason,
    )
