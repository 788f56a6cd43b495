"""The tier between this machine and the store: parts in the memory of another node's agent.

After a part is in the store, it goes to the agent of the next rank on another node as well. Whoever loads asks the
agents of the epoch in the same order, so that in most cases the first one asked has it. A peer that does not answer
costs a few seconds, and is not asked for parts again; nothing ever fails because of it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from longhaul_core.logging import get_logger
from longhaul_core.manifests import Part
from longhaul_core.net import split_address

from longhaul_trainer.peer_wire import (
    NONCE_BYTES,
    Answer,
    Hold,
    Look,
    Read,
    proof,
    receive_exactly,
    receive_line,
    send,
)

_CONNECT_SECONDS = 2.0
_SILENCE_SECONDS = 20.0
_ASKED = 4

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """The agent of a rank: its node, and how to reach what it holds. Without an address it holds nothing."""

    node: str
    address: str
    secret: str

    def to_document(self) -> bytes:
        """As the ranks tell it one another."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def of(cls, document: bytes) -> Peer:
        """Reads it back."""
        return cls(**json.loads(document))


class PeerTier:
    """Parts at the agents of the epoch. ``rank`` is this one's place among ``peers``."""

    name = "peer"

    def __init__(self, peers: Sequence[Peer], rank: int) -> None:
        own, others = peers[rank], [*peers[rank + 1 :], *peers[:rank]]
        far = [peer for peer in others if peer.address and peer.node != own.node]
        near = [own] if own.address else []
        self._neighbour = far[0] if far else None
        self._asked = list(dict.fromkeys([*far, *near]))[:_ASKED]
        self._refused: set[tuple[Peer, str]] = set()
        self._found: Peer | None = None

    def keep(self, part: Part, data: memoryview) -> bool:
        """Gives the neighbour a part that it does not have yet; returns whether it has it now."""
        peer = self._neighbour
        if peer is None:
            return False
        try:
            with _connected(peer) as connection:
                if _ask(connection, Look(digest=part.digest)) == part.size:
                    return True
                if _ask(connection, Hold(digest=part.digest, size=part.size)) < 0:
                    _log.warning("part is larger than what the peer may hold", key=part.key, bytes=part.size)
                    return False
                connection.sendall(data)
                return _receive(connection) == part.size
        except OSError as error:
            _log.warning("part not kept by the peer", key=part.key, peer=peer.address, error=str(error))
            return False

    def find(self, part: Part) -> PeerPart | None:
        """The first of a few agents that has the part."""
        for peer in list(self._asked):
            if (peer, part.digest) in self._refused:
                continue
            try:
                with _connected(peer) as connection:
                    size = _ask(connection, Look(digest=part.digest))
            except OSError as error:
                _log.warning("peer does not answer", peer=peer.address, error=str(error))
                self._asked.remove(peer)
                continue
            if size >= 0:
                self._found = peer
                return PeerPart(peer, part.digest, size)
        return None

    def reject(self, part: Part) -> None:
        """Does not ask the agent that had it for this part again."""
        if self._found is not None:
            self._refused.add((self._found, part.digest))


@dataclass(frozen=True, slots=True)
class PeerPart:
    """A part in an agent's memory."""

    peer: Peer
    digest: str
    held: int

    def size(self) -> int:
        """As the agent said."""
        return self.held

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """By a connection of its own: blocks are fetched by several threads."""
        with _connected(self.peer) as connection:
            count = _ask(connection, Read(digest=self.digest, offset=offset, length=len(buffer)))
            if not 0 <= count <= len(buffer):
                raise ConnectionError(f"the peer has no piece of {len(buffer)} bytes at {offset}")
            receive_exactly(connection, buffer[:count])
            return count


@contextmanager
def _connected(peer: Peer) -> Iterator[socket.socket]:
    with socket.create_connection(split_address(peer.address), _CONNECT_SECONDS) as connection:
        connection.settimeout(_SILENCE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        nonce = bytearray(NONCE_BYTES)
        receive_exactly(connection, memoryview(nonce))
        connection.sendall(proof(peer.secret, bytes(nonce)))
        yield connection


def _ask(connection: socket.socket, request: Hold | Look | Read) -> int:
    send(connection, request)
    return _receive(connection)


def _receive(connection: socket.socket) -> int:
    line = receive_line(connection)
    if not line:
        raise ConnectionError("the peer ended the connection")
    try:
        return Answer.model_validate_json(line).size
    except ValueError as error:
        raise ConnectionError(f"the peer answered {line!r}") from error
