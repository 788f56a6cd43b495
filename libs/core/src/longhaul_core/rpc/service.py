"""What a service is to the server that runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from longhaul_core.clock import Clock
from longhaul_core.db import Database
from longhaul_core.metrics import Metrics
from longhaul_core.objects import ObjectStore
from longhaul_core.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """What the server hands to a service's composition root.

    Attributes:
        settings: The service's own settings.
        db: Open, of the newest schema.
        objects: The object store.
        metrics: Where the service makes its metrics.
        clock: The time.
        stop: Set when background loops shall end.
        address: host:port at which others reach this replica.
    """

    settings: ServiceSettings
    db: Database
    objects: ObjectStore
    metrics: Metrics
    clock: Clock
    stop: asyncio.Event
    address: str


@dataclass(frozen=True, slots=True)
class ServiceDefinition:
    """What a composition root gives back.

    Attributes:
        register: Adds the servicers to the server and returns the full names of their services.
        background: Loops that run until `ServiceContext.stop`; one that raises ends the process.
        on_drain: Called once at shutdown while calls are still served, to hand work over.
        on_close: Called last, after calls and loops have ended, to close what the composition root opened.
    """

    register: Callable[[grpc.aio.Server], Sequence[str]]
    background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
    on_drain: Callable[[], Awaitable[None]] | None = None
    on_close: Callable[[], Awaitable[None]] | None = None


Build = Callable[[ServiceContext], Awaitable[ServiceDefinition]]
"""A service's composition root."""
