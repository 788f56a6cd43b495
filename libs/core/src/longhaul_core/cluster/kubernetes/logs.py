"""Output of a pod's container through the API server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from longhaul_core.clock import Clock
from longhaul_core.cluster.kubernetes.api import Api
from longhaul_core.cluster.kubernetes.manifest import CONTAINER
from longhaul_core.cluster.model import Pod, PodPhase
from longhaul_core.errors import InvalidArgument

START_POLL_SECONDS = 0.5


async def read_logs(
    api: Api, look: Callable[[], Awaitable[Pod]], clock: Clock, *, follow: bool, tail_lines: int | None
) -> AsyncIterator[bytes]:
    """Pieces of what the pod that `look` shows has written; a container that has not started has written nothing."""
    query = {"container": CONTAINER, "follow": "true" if follow else "false"}
    if tail_lines is not None:
        query["tailLines"] = str(tail_lines)
    while True:
        pod = await look()
        if pod.phase is not PodPhase.PENDING:
            try:
                async for piece in api.logs(pod.namespace, pod.name, query):
                    yield piece
                return
            except InvalidArgument:  # what the API says of a container that is just being started, or never was
                if pod.phase.terminal:
                    return
        if not follow:
            return
        await clock.sleep(START_POLL_SECONDS)
