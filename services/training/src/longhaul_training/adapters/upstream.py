"""Following other services' watch streams for as long as this process lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from longhaul_core.clock import Clock
from longhaul_core.logging import get_logger
from longhaul_core.rpc.client import from_rpc_error

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0

log = get_logger(__name__)


async def follow(
    name: str,
    open_stream: Callable[[int], AsyncIterator[Any]],
    handle: Callable[[Any], None],
    reset: Callable[[], None],
    clock: Clock,
    stop: asyncio.Event,
) -> None:
    """Hands every message of a watch to `handle`, resuming after the last revision, until `stop` is set.

    When the server no longer knows the revision, `reset` is called and the watch begins anew.
    """
    revision, pause = 0, FIRST_PAUSE_SECONDS
    ended = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set():
            try:
                stream = aiter(open_stream(revision))
                while (message := await _next(stream, ended)) is not None:
                    handle(message)
                    revision = max(revision, message.revision)
                    pause = FIRST_PAUSE_SECONDS
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                    revision = 0
                    reset()
                log.debug("upstream watch broken", upstream=name, error=str(from_rpc_error(error)))
            if not stop.is_set():
                await clock.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    finally:
        ended.cancel()


async def _next(stream: AsyncIterator[Any], ended: asyncio.Future[Any]) -> Any:
    """The next message, or None when the stream or the process ends."""
    upcoming = asyncio.ensure_future(anext(stream, None))
    try:
        await asyncio.wait((upcoming, ended), return_when=asyncio.FIRST_COMPLETED)
        return upcoming.result() if upcoming.done() else None
    finally:
        upcoming.cancel()
