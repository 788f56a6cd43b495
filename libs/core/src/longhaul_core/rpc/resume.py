"""A Watch of another service that outlives its restarts: reopened after the last revision that was seen."""

from __future__ import annotations

import random
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TypeVar

import grpc

from longhaul_core.clock import Clock, SystemClock
from longhaul_core.errors import ErrorCode
from longhaul_core.logging import get_logger
from longhaul_core.rpc.client import from_rpc_error

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 5.0

_PASSING = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.CANCELLED, ErrorCode.DEADLINE_EXCEEDED})
"""How a stream ends when its server stops, restarts or cannot be reached."""

T = TypeVar("T")

log = get_logger(__name__)


async def resumed(
    open_stream: Callable[[int], AsyncIterable[T]],
    revision_of: Callable[[T], int],
    *,
    after_revision: int = 0,
    clock: Clock | None = None,
) -> AsyncIterator[T]:
    """Yield the answers of a Watch for ever, through restarts of its server; at least once.

    Args:
        open_stream: Opens the Watch after a revision, such as
            `lambda revision: stub.WatchDatasets(WatchDatasetsRequest(parent=parent, after_revision=revision))`.
        revision_of: The revision of an answer.
        after_revision: Where to begin.
        clock: Waits between attempts.

    Raises:
        LonghaulError: The server refused the Watch; FailedPrecondition REVISION_AHEAD says to list anew.
    """
    clock = clock or SystemClock()
    position, delay_seconds = after_revision, FIRST_DELAY_SECONDS
    while True:
        try:
            async for answer in open_stream(position):
                position = max(position, revision_of(answer))
                delay_seconds = FIRST_DELAY_SECONDS
                yield answer
        except grpc.aio.AioRpcError as failure:
            error = from_rpc_error(failure)
            if error.code not in _PASSING:
                raise error from failure
            log.debug("watch interrupted", reason=error.reason, error=error.message, after_revision=position)
        await clock.sleep(delay_seconds * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnections
        delay_seconds = min(delay_seconds * 2, LONGEST_DELAY_SECONDS)
