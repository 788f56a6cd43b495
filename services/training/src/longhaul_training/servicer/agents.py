"""AgentService: the way between the agents in the pods and the controller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from longhaul.training.v1 import agent_pb2 as pb
from longhaul.training.v1 import agent_pb2_grpc
from longhaul_core.clock import Clock
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import parse_name

from longhaul_training.adapters.commands import Redirect, Welcome
from longhaul_training.adapters.hub import AgentHub, AgentSession
from longhaul_training.adapters.leadership import Leadership
from longhaul_training.adapters.reception import Arrival, Reception
from longhaul_training.adapters.report_desk import ReportDesk
from longhaul_training.convert import agents as convert

BEARER = "Bearer "

Context = grpc.aio.ServicerContext[Any, Any]


class AgentServicer(agent_pb2_grpc.AgentServiceServicer):
    """Serves one stream a pod while this replica leads; else it names the leader."""

    def __init__(self, leadership: Leadership, reception: Reception, hub: AgentHub, clock: Clock) -> None:
        self._leadership = leadership
        self._reception = reception
        self._hub = hub
        self._clock = clock

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        """See the proto."""
        term = self._leadership.term
        if term is None:
            yield convert.response_of(Redirect(await self._leadership.leader_address()), 0)
            return
        arrival = _arrival(await anext(request_iterator, None), context, self._clock.now().timestamp())
        admission = await self._reception.admit(arrival, term.number)
        session = admission.session
        with self._reception.desks.serving(session) as desk:
            listening = asyncio.create_task(self._listen(request_iterator, session, desk), name=f"listen {session.pod}")
            try:
                yield convert.response_of(Welcome(admission.acknowledged), session.term)
                while (command := await session.outgoing.get()) is not None:
                    yield convert.response_of(command, session.term)
            finally:
                listening.cancel()
                self._hub.detach(session)

    async def _listen(
        self, requests: AsyncIterator[pb.ConnectRequest], session: AgentSession, desk: ReportDesk
    ) -> None:
        """Takes messages until the agent's side of the stream ends, then ends ours."""
        try:
            async for request in requests:
                if request.WhichOneof("report") == "heartbeat":
                    beat = request.heartbeat
                    self._hub.heard(session, beat.epoch, convert.workers_of(beat.workers))
                    continue
                self._hub.touched(session)
                if request.WhichOneof("report") == "epoch_ready":
                    ready = request.epoch_ready
                    self._hub.prepared(session, ready.epoch, ready.rendezvous_address)
                if request.sequence:
                    desk.hand_in(session, request.sequence, convert.report_of(request, session.pod))
        finally:
            session.outgoing.put_nowait(None)


def _arrival(first: pb.ConnectRequest | None, context: Context, now: float) -> Arrival:
    if first is None or first.WhichOneof("report") != "join":
        text = "the first message of a stream must be Join"
        raise InvalidArgument(text, reason="JOIN_MISSING", violations=[("report", text)])
    join = first.join
    name = parse_name(join.run, "trainingRuns", "join.run")
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return Arrival(
        project=name.project,
        run_id=name.id,
        pod=join.pod,
        slot=join.slot,
        incarnation=join.incarnation,
        gpus=join.gpus,
        epoch=join.epoch,
        workers=convert.workers_of(join.workers),
        checks=convert.checks_of(join, now),
        token=metadata.get("authorization", "").removeprefix(BEARER),
    )
