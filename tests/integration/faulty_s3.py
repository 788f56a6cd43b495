"""An S3 that misbehaves on purpose: a proxy before a good one, which answers 503, cuts answers or changes bytes."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SMALLEST_BODY = 64
"""Shorter answers, and listings, are left alone: a fault is of what is read."""


class Fault(Enum):
    """What is wrong with an answer."""

    BUSY = "503"
    CUT = "half of the body, then the connection is closed"
    WRONG = "one byte is another"


class FaultyS3:
    """Passes requests on; spoils every `step`-th answer to a GET of keys that contain `part`, by each fault in turn.

    After `times` of them, if it is not 0, answers are whole again. `fired` counts the spoilt ones.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.fired: Counter[Fault] = Counter()
        self._lock = threading.Lock()
        self._plan: tuple[tuple[Fault, ...], str, int, int] | None = None
        self._seen = 0

    def plan(self, *faults: Fault, part: str = "", times: int = 0, step: int = 1) -> None:
        """Misbehave from now on, or without a fault no longer."""
        with self._lock:
            self._plan = (faults, part, times, step) if faults else None
            self._seen = 0
            self.fired.clear()

    def choose(self, path: str, length: int) -> Fault | None:
        """The fault of this answer, which is counted."""
        with self._lock:
            if self._plan is None or length < SMALLEST_BODY or "list-type" in path:
                return None
            faults, part, times, step = self._plan
            if part not in path or (times and self.fired.total() >= times):
                return None
            self._seen += 1
            if self._seen % step:
                return None
            fault = faults[self.fired.total() % len(faults)]
            self.fired[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyS3

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        content = answer.read()
        spoilt = self.command == "GET" and answer.status in (200, 206)
        fault = self.proxy.choose(self.path, len(content)) if spoilt else None
        self._answer(answer, content, fault)
        upstream.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass  # noqa: N815  (names of the base class)

    def _answer(self, answer: http.client.HTTPResponse, content: bytes, fault: Fault | None) -> None:
        if fault is Fault.BUSY:
            content = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
            self.send_response(503)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        if fault is Fault.WRONG:
            content = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if fault is Fault.CUT else content)
        if fault is Fault.CUT:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def faulty_s3(upstream: str) -> Iterator[tuple[FaultyS3, str]]:
    """Serve the proxy; yields it and its address."""
    proxy = FaultyS3(upstream)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield proxy, f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
