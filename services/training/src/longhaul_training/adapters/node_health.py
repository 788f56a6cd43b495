"""Drain and burn-in requests of gpuhealth, learnt by watching, and the answers to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from longhaul.common.v1 import resource_pb2
from longhaul.gpuhealth.v1 import node_health_pb2, node_health_pb2_grpc
from longhaul_core.clock import Clock
from longhaul_core.errors import FailedPrecondition, NotFound, ResourceExhausted
from longhaul_core.rpc.client import rpc_errors
from longhaul_core.tasks import BurnInResult

from longhaul_training.adapters.upstream import follow
from longhaul_training.convert.common import seconds_of
from longhaul_training.domain.actions import AccuseNode, AcknowledgeDrain
from longhaul_training.domain.observations import DrainView

WHO = "training"
ACCUSE_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class BurnInRequest:
    """A burn-in that gpuhealth asks for, on all GPUs of a node."""

    node: str
    session: str
    gpus: int


class NodeHealth:
    """The drain requests that are not acknowledged yet and the burn-ins that are not reported yet, by node."""

    def __init__(self, channel: grpc.aio.Channel, clock: Clock, wake: Callable[[], None]) -> None:
        self._stub: Any = node_health_pb2_grpc.NodeHealthServiceStub(channel)
        self._clock = clock
        self._wake = wake
        self._drains: dict[str, DrainView] = {}
        self._burn_ins: dict[str, BurnInRequest] = {}

    @property
    def burn_ins(self) -> Mapping[str, BurnInRequest]:
        """Burn-ins to run, by node."""
        return self._burn_ins

    @property
    def drains(self) -> Mapping[str, DrainView]:
        """Requests by node."""
        return self._drains

    async def run(self, stop: asyncio.Event) -> None:
        """Follows the node health until `stop` is set."""
        await follow("node health", self._open, self._handle, self._forget, self._clock, stop)

    async def acknowledge(self, action: AcknowledgeDrain) -> None:
        """Says that a node carries no work any more; raises LonghaulError."""
        request = node_health_pb2.AcknowledgeDrainRequest(
            name=f"nodes/{action.node}", session=action.session, acknowledged_by=WHO, message=action.message
        )
        with rpc_errors():
            await self._stub.AcknowledgeDrain(request)

    async def accuse(self, action: AccuseNode) -> str:
        """Asks for a node's quarantine and returns what came of it; raises LonghaulError when it may be asked again."""
        request = node_health_pb2.QuarantineNodeRequest(
            name=f"nodes/{action.node}", reason=action.message, author=WHO, request_id=action.key
        )
        try:
            with rpc_errors():
                await self._stub.QuarantineNode(request, timeout=ACCUSE_TIMEOUT_SECONDS)
        except (NotFound, FailedPrecondition, ResourceExhausted) as refusal:
            return refusal.reason or "REFUSED"
        return "QUARANTINED"

    async def report(self, request: BurnInRequest, result: BurnInResult) -> None:
        """Says what a burn-in found; raises LonghaulError."""
        figures = [
            node_health_pb2.BurnInMeasurement(gpu=one.gpu, name=one.name, value=one.value, unit=one.unit)
            for one in result.figures
        ]
        message = node_health_pb2.ReportBurnInRequest(
            name=f"nodes/{request.node}",
            session=request.session,
            passed=result.passed,
            message="; ".join(result.failures),
            device=result.device,
            measurements=figures,
        )
        with rpc_errors():
            await self._stub.ReportBurnIn(message)

    def _forget(self) -> None:
        self._drains.clear()
        self._burn_ins.clear()

    def _open(self, revision: int) -> AsyncIterator[Any]:
        stream: AsyncIterator[Any] = self._stub.WatchNodeHealth(
            node_health_pb2.WatchNodeHealthRequest(after_revision=revision)
        )
        return stream

    def _handle(self, message: node_health_pb2.WatchNodeHealthResponse) -> None:
        if message.type == resource_pb2.CHANGE_TYPE_BOOKMARK:
            return
        node, drain = message.node.node, message.node.drain
        before = self._drains.get(node)
        deleted = message.type == resource_pb2.CHANGE_TYPE_DELETED
        asked = message.node.burn_in
        if deleted or not asked.session or asked.HasField("report_time"):
            self._burn_ins.pop(node, None)
        else:
            self._burn_ins[node] = BurnInRequest(node, asked.session, len(message.node.gpus))
        if deleted or not drain.session or drain.HasField("acknowledge_time"):
            self._drains.pop(node, None)
        else:
            self._drains[node] = DrainView(drain.session, drain.computes, drain.cause, seconds_of(drain.request_time))
        if self._drains.get(node) != before:
            self._wake()
