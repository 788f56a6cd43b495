"""An address of loopback that leads to the API server, byte for byte, as the Service `kubernetes` does for pods."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PIECE = 1 << 16


@contextmanager
def forwarded(address: str, port: int, target: tuple[str, int]) -> Iterator[None]:
    """Lead connections to (address, port) on to `target`."""

    class Way(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(target) as other:
                ends = {self.request: other, other: self.request}
                while True:
                    for end in select.select(list(ends), [], [])[0]:
                        piece = end.recv(PIECE)
                        if not piece:
                            return
                        ends[end].sendall(piece)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads = True, True

    with Server((address, port), Way) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield
        server.shutdown()
        thread.join()
