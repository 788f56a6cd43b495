"""How a worker speaks to the agent of another node about parts held in memory. Free of torch.

The agent sends a nonce; who connects answers with its keyed digest under the agent's secret, which only ranks of the
epoch are told. Then requests follow, each a line of JSON, with the bytes behind it:

    {"type": "hold", "digest": …, "size": n}                -> {"size": n}, or -1: too large; n bytes -> {"size": n}
    {"type": "look", "digest": …}                           -> {"size": n}, or -1: not there
    {"type": "read", "digest": …, "offset": o, "length": l} -> {"size": m} + m bytes

Bytes are not encrypted, as those of collectives are not, and are worth something only by the digest of their part.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

NONCE_BYTES = 32
PROOF_BYTES = 32
_LONGEST_LINE = 4096


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hold(_Message):
    """Keep these bytes."""

    type: Literal["hold"] = "hold"
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Look(_Message):
    """Say whether a part is held; it then counts as newly used."""

    type: Literal["look"] = "look"
    digest: str


class Read(_Message):
    """Give a piece of a part."""

    type: Literal["read"] = "read"
    digest: str
    offset: int = Field(ge=0)
    length: int = Field(ge=0)


class Answer(_Message):
    """Bytes held or following; -1: none."""

    size: int


PeerRequest = Annotated[Hold | Look | Read, Field(discriminator="type")]
PEER_REQUEST: TypeAdapter[PeerRequest] = TypeAdapter(PeerRequest)


def proof(secret: str, nonce: bytes) -> bytes:
    """What answers a nonce."""
    return hmac.digest(secret.encode(), nonce, hashlib.sha256)


def send(connection: socket.socket, message: BaseModel) -> None:
    """Sends one line."""
    connection.sendall(message.model_dump_json().encode() + b"\n")


def receive_line(connection: socket.socket) -> bytes:
    """The next line, without what follows it; empty at the end.

    Raises:
        ConnectionError: it is too long, or cut.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece:
            if line:
                raise ConnectionError("the line was cut")
            return b""
        line += piece
        if len(line) > _LONGEST_LINE:
            raise ConnectionError("the line is too long")
    return bytes(line)


def receive_exactly(connection: socket.socket, buffer: memoryview) -> None:
    """Fills the buffer. Raises ConnectionError where the stream ends before."""
    filled = 0
    while filled < len(buffer):
        count = connection.recv_into(buffer[filled:])
        if not count:
            raise ConnectionError(f"the stream ended after {filled} of {len(buffer)} bytes")
        filled += count
