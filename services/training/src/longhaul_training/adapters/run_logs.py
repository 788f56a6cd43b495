"""Logs of a run: the agents' chunks in the object store, and what a pod wrote before its agent wrote any.

The chunks outlive the pods and cost the cluster nothing. Only a pod without one, whose agent has not started or never
will, is asked through the cluster.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from longhaul_core.clock import Clock
from longhaul_core.cluster import Cluster
from longhaul_core.errors import LonghaulError
from longhaul_core.objects import ObjectStore

from longhaul_training.adapters import project_store, rank_logs
from longhaul_training.adapters.project_store import ProjectStore
from longhaul_training.adapters.rank_logs import LogChunk, LogText
from longhaul_training.domain.states import Run

AGENT_RANK = -1
# A job of thousands of nodes whose agents do not start has the same to say many times.
ASKED_PODS = 8
ASKED_LINES = 500
ASK_SECONDS = 5.0


@dataclass(slots=True)
class LogCursor:
    """What one reader was shown: chunks by key, and lines of pods that have no chunk."""

    chunks: set[str] = field(default_factory=set)
    reporting: set[str] = field(default_factory=set)
    lines: dict[str, int] = field(default_factory=dict)


class RunLogs:
    """Reads logs for any replica."""

    def __init__(self, objects: ObjectStore, cluster: Cluster, projects: ProjectStore, clock: Clock) -> None:
        self._objects = objects
        self._cluster = cluster
        self._projects = projects
        self._clock = clock

    async def read(self, run: Run, rank: int | None, cursor: LogCursor, tail_lines: int = 0) -> list[LogText]:
        """Lines that the reader was not shown yet, of one rank or of all; only the last `tail_lines` unless 0."""
        lines = await asyncio.to_thread(self._reported, run, rank, cursor, tail_lines)
        if rank is None or rank == AGENT_RANK:
            lines += await self._early(run, cursor)
        return lines[-tail_lines:] if tail_lines else lines

    def _reported(self, run: Run, rank: int | None, cursor: LogCursor, tail_lines: int) -> list[LogText]:
        chunks = rank_logs.list_chunks(self._objects, run.project, run.id, rank)
        new = [chunk for chunk in chunks if chunk.key not in cursor.chunks]
        cursor.chunks.update(chunk.key for chunk in new)
        cursor.reporting.update(chunk.pod for chunk in new)
        if tail_lines:
            return rank_logs.tail(self._objects, new, tail_lines)
        return list(rank_logs.read_lines(self._objects, new))

    async def _early(self, run: Run, cursor: LogCursor) -> list[LogText]:
        """What pods without a chunk have written; one that can't be asked says nothing."""
        pods = [pod for pod, slot in run.current_pods().items() if pod not in cursor.reporting and not slot.joined]
        if not pods:
            return []
        try:
            namespace = project_store.namespace_of(await self._projects.get(run.project))
        except LonghaulError:
            return []
        found: list[LogText] = []
        for pod in pods[:ASKED_PODS]:
            texts = await self._ask(namespace, pod)
            shown = cursor.lines.get(pod, 0)
            cursor.lines[pod] = max(shown, len(texts))
            chunk = LogChunk("", AGENT_RANK, run.control.epoch, pod, 0, self._clock.now())
            found += [LogText(chunk, text) for text in texts[shown:]]
        return found

    async def _ask(self, namespace: str, pod: str) -> list[str]:
        data = b""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                async for piece in self._cluster.pod_logs(namespace, pod, tail_lines=ASKED_LINES):
                    data += piece
        except (LonghaulError, TimeoutError):
            return []
        return data.decode(errors="replace").splitlines()
