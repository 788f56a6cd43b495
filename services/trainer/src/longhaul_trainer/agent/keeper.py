"""Holds parts of other nodes' ranks in this agent's memory, so that the loss of a node need not go to the store.

Bounded: a part is taken only where it fits, and the parts that were used longest ago make room. What is held is a copy
of what was uploaded; readers compare digests, so that nothing here has to be believed.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import socketserver
import threading
from collections import OrderedDict

from longhaul_core.logging import get_logger
from longhaul_core.net import join_address
from pydantic import ValidationError

from longhaul_trainer.peer_wire import (
    NONCE_BYTES,
    PEER_REQUEST,
    PROOF_BYTES,
    Answer,
    Hold,
    Look,
    PeerRequest,
    Read,
    proof,
    receive_exactly,
    receive_line,
    send,
)

_SILENCE_SECONDS = 60.0
_log = get_logger(__name__)


class PartMemory:
    """Parts by digest, the newest last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: OrderedDict[str, bytes | bytearray] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes in use."""
        with self._lock:
            return sum(map(len, self._parts.values()))

    def fits(self, size: int) -> bool:
        """Whether a part of this size is taken at all."""
        return size <= self._limit

    def hold(self, digest: str, data: bytes | bytearray) -> None:
        """Keeps a part; older ones give way."""
        with self._lock:
            self._parts.pop(digest, None)
            room = self._limit - len(data)
            while self._parts and sum(map(len, self._parts.values())) > room:
                self._parts.popitem(last=False)
            self._parts[digest] = data

    def find(self, digest: str) -> bytes | bytearray | None:
        """A part, which is then the newest; None where it is not held."""
        with self._lock:
            if digest in self._parts:
                self._parts.move_to_end(digest)
            return self._parts.get(digest)


class PartKeeper:
    """Serves a part memory to workers that know the secret, on a port of its own."""

    def __init__(self, host: str, limit: int) -> None:
        self.memory = PartMemory(limit)
        self.secret = secrets.token_hex(16)
        keeper = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                keeper._serve(self.request)

        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = _Server((host, 0), Handler, family)
        self.address = join_address(host, self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.2,), name="part-keeper", daemon=True).start()

    def close(self) -> None:
        """Stops listening and forgets the parts."""
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(_SILENCE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if not self._admits(connection):
                _log.warning("peer without the secret turned away")
                return
            while line := receive_line(connection):
                self._answer(connection, PEER_REQUEST.validate_json(line))
        except (OSError, ValidationError) as error:
            _log.info("connection of a peer ended", error=str(error))

    def _admits(self, connection: socket.socket) -> bool:
        nonce, answer = secrets.token_bytes(NONCE_BYTES), bytearray(PROOF_BYTES)
        connection.sendall(nonce)
        receive_exactly(connection, memoryview(answer))
        return hmac.compare_digest(answer, proof(self.secret, nonce))

    def _answer(self, connection: socket.socket, request: PeerRequest) -> None:
        match request:
            case Hold(digest=digest, size=size):
                fits = self.memory.fits(size)
                send(connection, Answer(size=size if fits else -1))
                if fits:
                    data = bytearray(size)
                    receive_exactly(connection, memoryview(data))
                    self.memory.hold(digest, data)
                    send(connection, Answer(size=size))
            case Look(digest=digest):
                found = self.memory.find(digest)
                send(connection, Answer(size=-1 if found is None else len(found)))
            case Read(digest=digest, offset=offset, length=length):
                found = self.memory.find(digest)
                piece = memoryview(found)[offset : offset + length] if found is not None else None
                send(connection, Answer(size=-1 if piece is None else len(piece)))
                if piece is not None:
                    connection.sendall(piece)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, address: tuple[str, int], handler: type[socketserver.BaseRequestHandler], family: socket.AddressFamily
    ) -> None:
        self.address_family = family
        super().__init__(address, handler)
