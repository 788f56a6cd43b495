"""Addresses of the form host:port."""

from __future__ import annotations

import ipaddress

from longhaul_core.errors import InvalidArgument


def split_address(address: str, field: str = "address") -> tuple[str, int]:
    """Split `host:port` (IPv6 hosts in brackets).

    Raises:
        InvalidArgument: The address has no port, or one outside 0 to 65535. It is a ValueError to pydantic.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise AddressInvalid(field, address)
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    """Join a host and a port, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Tell whether a host is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class AddressInvalid(InvalidArgument, ValueError):  # noqa: N818 - see errors.py
    """An address that is not of the form host:port."""

    def __init__(self, field: str, address: str) -> None:
        description = f"{address!r} is not of the form HOST:PORT"
        super().__init__(f"{field}: {description}", reason="ADDRESS_INVALID", violations=[(field, description)])
