"""Messages between clients and node processes: one JSON object a line, over loopback TCP.

The first line of a connection is `{"token": ...}`. Requests carry an `id` that their answer repeats; hints, sent to
every connection, carry none.
"""

from __future__ import annotations

import asyncio
import json
from enum import StrEnum
from typing import Any

from longhaul_core.cluster.model import EventKind, PodSpec

LINE_LIMIT_BYTES = 1 << 16


class Operation(StrEnum):
    """What a client may ask: liveness, a look at one pod (which is announced, too), a hint to all clients."""

    PING = "ping"
    LOOK = "look"
    ANNOUNCE = "announce"


def pod_hint(spec: PodSpec) -> dict[str, Any]:
    """Hint that a pod changed, with what watchers filter by."""
    return {"kind": EventKind.POD, "namespace": spec.namespace, "name": spec.name, "labels": dict(spec.labels)}


def node_hint(name: str) -> dict[str, Any]:
    """Hint that a node changed."""
    return {"kind": EventKind.NODE, "name": name}


def encode(message: dict[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


async def receive(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None at the end of the connection or after anything that is no message."""
    try:
        line = await reader.readuntil(b"\n")
        message = json.loads(line)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
        return None
    return message if isinstance(message, dict) else None
