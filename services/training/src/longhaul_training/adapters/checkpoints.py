"""The checkpoint service as the controller uses it: fence an epoch, find what it begins with."""

from __future__ import annotations

from typing import Any

import grpc
from longhaul.checkpoint.v1 import checkpoint_pb2, checkpoint_pb2_grpc
from longhaul_core.errors import NotFound
from longhaul_core.rpc.client import rpc_errors

from longhaul_training.domain.reports import Reports
from longhaul_training.domain.states import ResumePoint

TIMEOUT_SECONDS = 20.0
# Steps are made again for the sake of their metrics up to this time, and not beyond.
CHEAP_REPLAY_SECONDS = 120.0


class Checkpoints:
    """Calls of the checkpoint service; all raise LonghaulError."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = checkpoint_pb2_grpc.CheckpointServiceStub(channel)

    async def begin_epoch(self, run: str, epoch: int, *, rollback: bool, reports: Reports) -> ResumePoint | None:
        """Fences lower epochs off and returns the checkpoint to begin with; None: from the first step.

        A rollback begins with the checkpoint before the newest, where there is one.
        """
        resume = await self._before_latest(run) if rollback else None
        await self._register(run, epoch, resume)
        if resume is not None:
            return resume
        latest = await self._latest(run, 0)
        return await self._with_history(run, latest, reports) or latest

    async def _with_history(self, run: str, latest: ResumePoint | None, reports: Reports) -> ResumePoint | None:
        """An older checkpoint to begin with, where that brings back metric rows that died with controller and agents.

        The newest one may be ahead of the rows that were committed; steps are made again for them while that is cheap.
        """
        if latest is None or latest.step <= max(0, reports.step):
            return None
        older = await self._latest(run, reports.step) if reports.step > 0 else None
        if older is None:
            return None
        again_seconds = (latest.step - older.step) * reports.median_step_seconds
        return older if again_seconds <= CHEAP_REPLAY_SECONDS else None

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
