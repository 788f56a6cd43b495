"""Prometheus metrics of a service and the HTTP port that serves them."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Sequence
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)
from prometheus_client.exposition import ThreadingWSGIServer

from longhaul_core.errors import FailedPrecondition
from longhaul_core.net import join_address, split_address

LATENCY_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From one database read to the longest unary call."""


class Metrics:
    """Makes the metrics of one service in a registry of its own, under the prefix `longhaul_<service>_`."""

    def __init__(self, service: str, registry: CollectorRegistry | None = None) -> None:
        self.service = service
        self.registry = registry or CollectorRegistry()

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        """Make a counter; Prometheus adds `_total` to its name."""
        return Counter(self._full(name), documentation, labels, registry=self.registry)

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
        """Make a gauge."""
        return Gauge(self._full(name), documentation, labels, registry=self.registry)

    def histogram(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = LATENCY_BUCKETS_SECONDS,
    ) -> Histogram:
        """Make a histogram; the unit belongs into its name (`_seconds`, `_bytes`)."""
        return Histogram(self._full(name), documentation, labels, registry=self.registry, buckets=buckets)

    def observe_process(self) -> None:
        """Add the memory, CPU time and open files of this process."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def _full(self, name: str) -> str:
        return f"longhaul_{self.service}_{name}"


class RpcMetrics:
    """What the server's interceptor counts, under one name for all services."""

    def __init__(self, metrics: Metrics) -> None:
        self.handled = Counter(
            "longhaul_rpc_server_handled",
            "Calls that ended, by code.",
            ("service", "method", "code"),
            registry=metrics.registry,
        )
        self.seconds = Histogram(
            "longhaul_rpc_server_handling_seconds",
            "Time from the start of a unary call to its end.",
            ("service", "method"),
            registry=metrics.registry,
            buckets=LATENCY_BUCKETS_SECONDS,
        )
        self.open_streams = Gauge(
            "longhaul_rpc_server_open_streams",
            "Streaming calls in progress.",
            ("service", "method"),
            registry=metrics.registry,
        )


_STOP_POLL_SECONDS = 0.1
"""How soon the thread notices that it shall end."""


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Scrapes are not worth a line."""


class _Server6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class MetricsServer:
    """The HTTP server of /metrics, on a thread of its own."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        server_class = _Server6 if ":" in host else ThreadingWSGIServer
        self._server = make_server(host, port, make_wsgi_app(registry), server_class, _QuietHandler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STOP_POLL_SECONDS,), name="metrics", daemon=True
        )
        self.address = join_address(host, self._server.server_port)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def start_metrics_server(address: str, registry: CollectorRegistry) -> MetricsServer:
    """Serve a registry at `http://<address>/metrics`; port 0 takes a free one.

    Raises:
        FailedPrecondition: The port is taken (reason ADDRESS_IN_USE) or cannot be had.
    """
    host, port = split_address(address, "metrics_address")
    try:
        return MetricsServer(host, port, registry)
    except OSError as error:
        raise address_unusable(address, "metrics_address", error) from error


def address_unusable(address: str, setting: str, error: OSError) -> FailedPrecondition:
    """Say which address cannot be listened on and which setting changes it."""
    variable = f"LONGHAUL_{setting.upper()}"
    in_use = error.errno == errno.EADDRINUSE
    cause = "the port is taken by another process" if in_use else (error.strerror or str(error))
    return FailedPrecondition(
        f"cannot listen on {address}: {cause}",
        reason="ADDRESS_IN_USE" if in_use else "ADDRESS_UNUSABLE",
        metadata={"address": address, "setting": variable},
        action=f"stop the other process or set {variable} to another address",
    )
