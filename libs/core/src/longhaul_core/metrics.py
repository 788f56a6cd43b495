"""Prometheus metrics of a service and the HTTP port that serves them."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

from cryptography import x509
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    make_wsgi_app,
)
from prometheus_client.exposition import ThreadingWSGIServer

from longhaul_core.errors import FailedPrecondition
from longhaul_core.net import join_address, split_address

disable_created_metrics()  # type: ignore[no-untyped-call]  # a third of all series, and nobody asks for them
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

    def table(self, name: str, documentation: str, labels: Sequence[str]) -> Table:
        """Make a gauge whose series come and go, such as one of each run that is alive."""
        return Table(Gauge(self._full(name), documentation, labels, registry=self.registry))

    def observe_process(self) -> None:
        """Add the memory, CPU time and open files of this process."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def _full(self, name: str) -> str:
        return f"longhaul_{self.service}_{name}"


class Table:
    """A gauge that is always shown as a whole: series that are no longer given vanish, so that labels stay bounded."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._shown: dict[tuple[str, ...], tuple[Gauge, float]] = {}

    def show(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Replace all series; the keys are label values in the order of the gauge's labels."""
        for labels in self._shown.keys() - values.keys():
            self._gauge.remove(*labels)
            del self._shown[labels]
        for labels, value in values.items():
            series, shown = self._shown.get(labels) or (self._gauge.labels(*labels), None)
            if value != shown:
                series.set(value)
                self._shown[labels] = series, value


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


class StoreMetrics:
    """What a service sees of its object store."""

    def __init__(self, metrics: Metrics) -> None:
        self.operations = Counter(
            "longhaul_objects_operations",
            "Operations on the object store by outcome; an object that is not there, or there already, is an answer.",
            ("operation", "outcome"),
            registry=metrics.registry,
        )
        self.seconds = Histogram(
            "longhaul_objects_operation_seconds",
            "Time of an operation on the object store.",
            ("operation",),
            registry=metrics.registry,
            buckets=LATENCY_BUCKETS_SECONDS,
        )
        for operation in ("put", "get", "stat", "list", "delete", "open_read", "open_write"):
            for outcome in ("ok", "failed"):
                self.operations.labels(operation, outcome)


class DatabaseMetrics:
    """What a service sees of its database."""

    def __init__(self, metrics: Metrics) -> None:
        self._transactions = Counter(
            "longhaul_database_transactions",
            "Transactions by kind and outcome: ok, refused (by the service's own rules) or failed (by the database).",
            ("kind", "outcome"),
            registry=metrics.registry,
        )
        self._seconds = Histogram(
            "longhaul_database_transaction_seconds",
            "Time of a transaction, its repetitions after conflicts included.",
            ("kind",),
            registry=metrics.registry,
            buckets=LATENCY_BUCKETS_SECONDS,
        )
        self._counts = {
            (kind, outcome): self._transactions.labels(kind, outcome)
            for kind in ("read", "write")
            for outcome in ("ok", "refused", "failed")
        }
        self._times = {kind: self._seconds.labels(kind) for kind in ("read", "write")}

    def observe(self, kind: str, outcome: str, seconds: float) -> None:
        """Count one transaction."""
        self._counts[kind, outcome].inc()
        self._times[kind].observe(seconds)


def observe_identity(metrics: Metrics, version: str, certificate: Path | None) -> None:
    """Add what is constant of a process: its version and the end of its TLS certificate, read at each scrape."""
    build = Gauge(
        "longhaul_build_info", "1; the labels say what runs.", ("service", "version"), registry=metrics.registry
    )
    build.labels(metrics.service, version).set(1)
    if certificate is not None:
        expiry = Gauge(
            "longhaul_tls_certificate_expiry_timestamp_seconds",
            "When the server's TLS certificate ends, Unix time; 0 where it cannot be read.",
            registry=metrics.registry,
        )
        expiry.set_function(lambda: certificate_expiry(certificate))


def certificate_expiry(path: Path) -> float:
    """Unix time at which the first certificate of a PEM file ends; 0 where there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return 0.0


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
