"""What agent and nursery say to each other: one JSON document a packet of a SOCK_SEQPACKET pair. Free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

LARGEST_PACKET_BYTES = 1 << 16


class _Packet(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fork(_Packet):
    """Makes a worker. Two descriptors come along: its channel to the agent, and where its output goes."""

    type: Literal["fork"] = "fork"
    number: int


class Kill(_Packet):
    """Ends a worker at once; nothing happens when it has ended already."""

    type: Literal["kill"] = "kill"
    number: int


class Ready(_Packet):
    """Everything is imported: from now on a worker takes milliseconds."""

    type: Literal["ready"] = "ready"


class Forked(_Packet):
    """A worker lives."""

    type: Literal["forked"] = "forked"
    number: int
    process_id: int


class Exited(_Packet):
    """A worker has ended and is reaped; negative codes are signals."""

    type: Literal["exited"] = "exited"
    number: int
    code: int


Order = Annotated[Fork | Kill, Field(discriminator="type")]
ORDER: TypeAdapter[Order] = TypeAdapter(Order)
Report = Annotated[Ready | Forked | Exited, Field(discriminator="type")]
REPORT: TypeAdapter[Report] = TypeAdapter(Report)
