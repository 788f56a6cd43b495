"""The port of a server: refused where it would be open to others, and held before anything else is touched."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any

import grpc

from longhaul_core.errors import FailedPrecondition
from longhaul_core.metrics import address_unusable
from longhaul_core.net import is_loopback, join_address, split_address
from longhaul_core.rpc.certificate_files import CertificateFiles
from longhaul_core.rpc.client import MAXIMUM_MESSAGE_BYTES
from longhaul_core.rpc.handlers import CallInterceptor, InterceptedServer
from longhaul_core.settings import ServiceSettings

SERVER_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.so_reuseport", 0),  # two servers on one port would share its calls silently
    ("grpc.max_receive_message_length", MAXIMUM_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAXIMUM_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_connection_age_ms", 300_000),  # so that clients find replicas that came later; streams live on
)


class Port:
    """The port of a service, held until its server listens on it."""

    def __init__(self, settings: ServiceSettings) -> None:
        """Hold the port of `listen_address`, or a free one.

        Raises:
            FailedPrecondition: The port is taken (ADDRESS_IN_USE), or other machines could reach an address that
                neither TLS nor a token guards (LISTEN_INSECURE).
        """
        host, port = split_address(settings.listen_address, "listen_address")
        _refuse_open(settings, host)
        self._settings = settings
        self._holder = _hold(settings.listen_address, host, port)
        self.address = join_address(host, self._holder.getsockname()[1])

    def open_server(self, interceptors: Sequence[CallInterceptor], *, keep: bool = False) -> grpc.aio.Server:
        """Make a server that listens on the port; it serves when it is started. `keep`: another one follows it.

        Raises:
            FailedPrecondition: Another process was faster.
        """
        server = InterceptedServer(grpc.aio.server(options=SERVER_OPTIONS), interceptors)
        try:
            _bind(server, self._settings, self.address)
        except RuntimeError as error:
            raise address_unusable(self.address, "listen_address", OSError(errno.EADDRINUSE, str(error))) from error
        if not keep:
            self.close()
        return server

    def close(self) -> None:
        """Let go of a port that no server took."""
        self._holder.close()


def open_health_server(address: str) -> grpc.aio.Server | None:
    """Make the server that a kubelet probes, which speaks no TLS; None for an empty address.

    Raises:
        FailedPrecondition: The port is taken (ADDRESS_IN_USE) or cannot be had.
    """
    if not address:
        return None
    host, port = split_address(address, "health_address")
    holder = _hold(address, host, port, "health_address")
    try:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_insecure_port(address)
        return server
    except RuntimeError as error:
        raise address_unusable(address, "health_address", OSError(errno.EADDRINUSE, str(error))) from error
    finally:
        holder.close()


def advertised(settings: ServiceSettings, bound: str) -> str:
    """Return the address at which others reach this server."""
    if settings.advertise_address:
        return settings.advertise_address
    host, port = split_address(bound)
    return join_address(socket.gethostname(), port) if host in {"0.0.0.0", "::"} else bound  # noqa: S104 - compared only


def _refuse_open(settings: ServiceSettings, host: str) -> None:
    guarded = settings.tls_certificate is not None or bool(settings.api_token.get_secret_value())
    if is_loopback(host) or guarded or settings.allow_insecure:
        return
    raise FailedPrecondition(
        f"refused to listen on {settings.listen_address}: other machines could reach it, without TLS or a token",
        reason="LISTEN_INSECURE",
        metadata={"address": settings.listen_address},
        action=(
            "set LONGHAUL_TLS_CERTIFICATE and LONGHAUL_TLS_KEY, or LONGHAUL_API_TOKEN, or LONGHAUL_ALLOW_INSECURE=true "
            "where the network is trusted"
        ),
    )


def _hold(address: str, host: str, port: int, setting: str = "listen_address") -> socket.socket:
    """Bind the port ourselves, since gRPC does not say why it cannot; it can still bind beside us (SO_REUSEADDR)."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        holder = socket.socket(family, kind, protocol)
    except OSError as error:
        raise address_unusable(address, setting, error) from error
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(where)
    except OSError as error:
        holder.close()
        raise address_unusable(address, setting, error) from error
    return holder


def _bind(server: grpc.aio.Server, settings: ServiceSettings, address: str) -> None:
    if settings.tls_certificate is None or settings.tls_key is None:
        server.add_insecure_port(address)
        return
    files = CertificateFiles(settings.tls_certificate, settings.tls_key)
    server.add_secure_port(address, files.credentials())
