"""Drain requests of gpuhealth, learnt by watching, and their acknowledgement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
from longhaul.common.v1 import resource_pb2
from longhaul.gpuhealth.v1 import node_health_pb2, node_health_pb2_grpc
from longhaul_core.clock import Clock
from longhaul_core.errors import FailedPrecondition, NotFound, ResourceExhausted
from longhaul_core.rpc.client import rpc_errors

from longhaul_training.adapters.upstream import follow
from longhaul_training.convert.common import seconds_of
from longhaul_training.domain.actions import AccuseNode, AcknowledgeDrain
from longhaul_training.domain.observations import DrainView

WHO = "training"
ACCUSE_TIMEOUT_SECONDS = 10.0


class NodeHealth:
    """The drain requests that are not acknowledged yet, by node."""

    def __init__(self, channel: grpc.aio.Channel, clock: Clock, wake: Callable[[], None]) -> None:
        self._stub: Any = node_health_pb2_grpc.NodeHealthServiceStub(channel)
        self._clock = clock
        self._wake = wake
        self._drains: dict[str, DrainView] = {}

    @property
    def drains(self) -> Mapping[str, DrainView]:
        """Requests by node."""
        return self._drains

    async def run(self, stop: asyncio.Event) -> None:
        """Follows the node health until `stop` is set."""
        await follow("node health", self._open, self._handle, self._drains.clear, self._clock, stop)

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
        if deleted or not drain.session or drain.HasField("acknowledge_time"):
            self._drains.pop(node, None)
        else:
            self._drains[node] = DrainView(drain.session, drain.computes, drain.cause, seconds_of(drain.request_time))
        if self._drains.get(node) != before:
            self._wake()
