"""The stream to the controller: tries every replica, follows redirects to the leader, reconnects for ever.

Training does not wait for it: while no controller answers, reports gather in the outbox.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

import grpc
from longhaul.training.v1 import agent_pb2, agent_pb2_grpc
from longhaul_core.logging import get_logger
from longhaul_core.net import split_address
from longhaul_core.rpc.client import connect, from_rpc_error

from longhaul_trainer.agent.outbox import Outbox

HEARTBEAT_SECONDS = 1.0
_WELCOME_SECONDS = 5.0
_ROW_PAUSE_SECONDS = 0.02
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
_log = get_logger(__name__)

CommandHandler = Callable[[agent_pb2.ConnectResponse], Awaitable[None]]


class Superseded(Exception):  # noqa: N818
    """The controller has given this pod's slot to a newer one, or does not know the pod."""


class _Redirected(Exception):  # noqa: N818
    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address


class ControllerLink:
    """One pod's way to the controller. Commands of a lower term than one already seen are refused here."""

    def __init__(
        self,
        addresses: Sequence[str],
        token: str,
        outbox: Outbox,
        join: Callable[[], agent_pb2.Join],
        heartbeat: Callable[[], agent_pb2.Heartbeat],
        handle: CommandHandler,
        tls_ca: bytes | None = None,
    ) -> None:
        self._addresses = list(addresses)
        self._token = token
        self._tls_ca = tls_ca
        self._outbox = outbox
        self._join = join
        self._heartbeat = heartbeat
        self._handle = handle
        self._sent = 0
        self.term = 0
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Keeps the stream up until cancelled.

        Raises:
            Superseded: this pod is not wanted any more.
        """
        turn, pause, address = 0, _FIRST_PAUSE_SECONDS, self._addresses[0]
        while True:
            try:
                await self._stream(address)
            except _Redirected as redirect:
                _log.info("redirected to leader", address=redirect.address)
                address = redirect.address or self._addresses[turn % len(self._addresses)]
                await asyncio.sleep(_FIRST_PAUSE_SECONDS)
                continue
            except (grpc.RpcError, TimeoutError, ConnectionError) as error:
                _log.warning("controller stream broken", address=address, error=_describe(error))
            pause = _FIRST_PAUSE_SECONDS if self.connected.is_set() else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            self.connected.clear()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            turn += 1
            address = self._addresses[turn % len(self._addresses)]

    async def _stream(self, address: str) -> None:
        async with connect(address, token=self._token, tls_ca=self._tls_ca, tls_name=self._name(address)) as channel:
            welcomed = asyncio.Event()
            call = agent_pb2_grpc.AgentServiceStub(channel).Connect(self._requests(welcomed))
            try:
                await self._receive(call, welcomed)
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
                    raise Superseded(_describe(error)) from error
                if from_rpc_error(error).reason == "POD_SUPERSEDED":
                    raise Superseded(_describe(error)) from error
                raise
            finally:
                call.cancel()
        raise ConnectionError("the controller closed the stream")

    def _name(self, address: str) -> str:
        """Name in the certificate of an address: a replica that we were sent to has that of the whole service."""
        return "" if address in self._addresses else split_address(self._addresses[0])[0]

    async def _receive(self, call: AsyncIterable[agent_pb2.ConnectResponse], welcomed: asyncio.Event) -> None:
        responses = aiter(call)
        while True:
            limit = None if welcomed.is_set() else _WELCOME_SECONDS
            try:
                response = await asyncio.wait_for(anext(responses), limit)
            except StopAsyncIteration:
                return
            await self._take(response, welcomed)

    async def _take(self, response: agent_pb2.ConnectResponse, welcomed: asyncio.Event) -> None:
        command = response.WhichOneof("command")
        if command == "redirect":
            raise _Redirected(response.redirect.leader_address)
        if response.term < self.term:
            _log.warning("command of an older term refused", command=command, term=response.term, known=self.term)
            return
        self.term = response.term
        if command == "welcome":
            self._outbox.acknowledge(response.welcome.acknowledged_sequence)
            self._sent = response.welcome.acknowledged_sequence
            self.connected.set()
            welcomed.set()
        elif command == "acknowledge":
            self._outbox.acknowledge(response.acknowledge.sequence)
        elif command is not None:
            await self._handle(response)

    async def _requests(self, welcomed: asyncio.Event) -> AsyncIterator[agent_pb2.ConnectRequest]:
        """Join, then, once welcome, reports as they come and a heartbeat each second."""
        yield agent_pb2.ConnectRequest(join=self._join())
        await welcomed.wait()
        loop = asyncio.get_running_loop()
        beat = loop.time()
        while True:
            for report in self._outbox.after(self._sent):
                yield report
                self._sent = report.sequence
            if loop.time() >= beat:
                yield agent_pb2.ConnectRequest(heartbeat=self._heartbeat())
                beat = loop.time() + HEARTBEAT_SECONDS
            with suppress(TimeoutError):
                await asyncio.wait_for(self._outbox.filled.wait(), max(0.0, beat - loop.time()))
                await asyncio.sleep(_ROW_PAUSE_SECONDS)


def _describe(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
