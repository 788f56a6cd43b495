"""The node process's side of the wire: answers requests, pushes hints."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass, field
from typing import Any

from longhaul_core.cluster.local.pods import NodePods
from longhaul_core.cluster.local.records import StoredPod
from longhaul_core.cluster.local.wire import LINE_LIMIT_BYTES, Operation, encode, pod_hint, receive
from longhaul_core.logging import get_logger

HOST = "127.0.0.1"
BACKLOG_LIMIT_BYTES = 1 << 20

log = get_logger(__name__)


@dataclass(slots=True)
class NodeServer:
    """Serves the clients of one node."""

    node: str
    token: str
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _pods: NodePods | None = None

    async def start(self, pods: NodePods) -> int:
        """Listen on a free loopback port, which is returned."""
        self._pods = pods
        self._server = await asyncio.start_server(self._serve, HOST, 0, limit=LINE_LIMIT_BYTES)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop listening and hang up."""
        if self._server is None:
            return
        self._server.close()
        for writer in list(self._connections):
            writer.close()
        await self._server.wait_closed()

    def pod_changed(self, stored: StoredPod) -> None:
        """Tell all clients."""
        self._push(pod_hint(stored.record.spec))

    def _push(self, hint: dict[str, Any]) -> None:
        line = encode(hint)
        for writer in list(self._connections):
            if writer.transport.get_write_buffer_size() > BACKLOG_LIMIT_BYTES:
                writer.transport.abort()  # it does not read: hang up, so that it lists again
            elif not writer.is_closing():
                writer.write(line)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            greeting = await receive(reader)
            if greeting is None or not hmac.compare_digest(str(greeting.get("token", "")), self.token):
                return
            self._connections.add(writer)
            while (request := await receive(reader)) is not None:
                writer.write(encode({"id": request.get("id"), **await self._answer(request)}))
                await writer.drain()
        except ConnectionError:
            return
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._pods is not None
        match request.get("operation"):
            case Operation.PING:
                return {"node": self.node}
            case Operation.ANNOUNCE:
                self._push(request["hint"])
                return {}
            case Operation.LOOK:
                await self._pods.look(str(request["hint"]["namespace"]), str(request["hint"]["name"]))
                self._push(request["hint"])
                return {}
            case unknown:
                return {"error": f"unknown operation {unknown!r}"}
