"""The checkpoint service as the controller uses it: fence an epoch, find what it begins with."""

from __future__ import annotations

from typing import Any

import grpc
from longhaul.checkpoint.v1 import checkpoint_pb2, checkpoint_pb2_grpc
from longhaul_core.errors import NotFound
from longhaul_core.rpc.client import rpc_errors

from longhaul_training.domain.states import ResumePoint

TIMEOUT_SECONDS = 20.0


class Checkpoints:
    """Calls of the checkpoint service; all raise LonghaulError."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = checkpoint_pb2_grpc.CheckpointServiceStub(channel)

    async def begin_epoch(self, run: str, epoch: int, *, rollback: bool) -> ResumePoint | None:
        """Fences lower epochs off and returns the checkpoint to begin with; None: from the first step.

        A rollback begins with the checkpoint before the newest, where there is one.
        """
        resume = await self._before_latest(run) if rollback else None
        await self._register(run, epoch, resume)
        if resume is not None:
            return resume
        return await self._latest(run, 0)

    async def _register(self, run: str, epoch: int, resume: ResumePoint | None) -> None:
        request = checkpoint_pb2.RegisterEpochRequest(
            training_run=run, epoch=epoch, resume_checkpoint=resume.checkpoint if resume else ""
        )
        with rpc_errors():
            await self._stub.RegisterEpoch(request, timeout=TIMEOUT_SECONDS)

    async def _before_latest(self, run: str) -> ResumePoint | None:
        latest = await self._latest(run, 0)
        return await self._latest(run, latest.step - 1) if latest is not None and latest.step > 1 else None

    async def _latest(self, run: str, maximum_step: int) -> ResumePoint | None:
        request = checkpoint_pb2.GetLatestCheckpointRequest(training_run=run, maximum_step=maximum_step)
        try:
            with rpc_errors():
                found = await self._stub.GetLatestCheckpoint(request, timeout=TIMEOUT_SECONDS)
        except NotFound:
            return None
        return ResumePoint(found.metadata.name, found.manifest_key, found.step)
