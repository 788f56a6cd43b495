"""Ports of a local installation: checked before anything is started."""

import random
import socket

from longhaul_core.errors import FailedPrecondition

from longhaul_client.local.layout import EXPORTER_OFFSET, METRICS_OFFSET, SERVICES, Layout

_FIRST, _LAST = 20_000, 31_000
"""Below the range that the kernel gives to outgoing connections, so that a free port stays free."""


def is_free(address: str) -> bool:
    """Say whether a loopback address can be listened on now."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, int(port)))
        except OSError:
            return False
    return True


def check_ports(layout: Layout) -> None:
    """Refuse a layout of which a port is taken.

    Raises:
        FailedPrecondition: PORT_TAKEN, naming the address and who wanted it.
    """
    wanted = {**layout.addresses, **{f"{name} metrics": a for name, a in layout.metrics_addresses.items()}}
    wanted["exporter"] = layout.exporter_address
    for owner, address in wanted.items():
        if not is_free(address):
            raise FailedPrecondition(
                f"{address}, wanted for {owner}, is in use by another program",
                reason="PORT_TAKEN",
                metadata={"address": address},
                action="stop that program, or choose other ports: longhaul up --port-base N (or --port-base auto)",
            )


def free_port_base(attempts: int = 200) -> int:
    """Return a base from which every port of a layout is free."""
    offsets = [*range(len(SERVICES)), *(METRICS_OFFSET + i for i in range(len(SERVICES))), EXPORTER_OFFSET]
    for _ in range(attempts):
        base = random.randrange(_FIRST, _LAST)  # noqa: S311 - no secret
        if all(is_free(f"127.0.0.1:{base + offset}") for offset in offsets):
            return base
    raise FailedPrecondition(
        "no free range of ports was found on loopback", reason="PORT_TAKEN", action="stop programs that listen"
    )
