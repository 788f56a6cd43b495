"""Rank logs, cut into immutable chunks in the object store every few seconds and when a worker ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from longhaul.training.v1 import agent_pb2
from longhaul_core.errors import LonghaulError
from longhaul_core.logging import get_logger
from longhaul_core.objects import ObjectStore

_log = get_logger(__name__)
_MOST_BUFFERED_BYTES = 16 << 20


@dataclass(slots=True)
class _Buffer:
    lines: list[str] = field(default_factory=list)
    size: int = 0
    dropped: int = 0


class LogShipper:
    """Buffers lines by (rank, epoch) and writes them out; while the store is away the newest 16 MiB are kept."""

    def __init__(
        self, store: ObjectStore, prefix: str, pod: str, report: Callable[[agent_pb2.ConnectRequest], None]
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._pod = pod
        self._report = report
        self._buffers: dict[tuple[int, int], _Buffer] = {}
        self._written = 0
        self._lock = asyncio.Lock()

    def add(self, rank: int, epoch: int, line: str) -> None:
        """Takes one line of a rank."""
        buffer = self._buffers.setdefault((rank, epoch), _Buffer())
        buffer.lines.append(line)
        buffer.size += len(line) + 1
        while buffer.size > _MOST_BUFFERED_BYTES:
            buffer.size -= len(buffer.lines.pop(0)) + 1
            buffer.dropped += 1

    async def flush(self) -> None:
        """Writes one chunk for each rank that has new lines; what cannot be written stays for the next time."""
        async with self._lock:
            for (rank, epoch), buffer in list(self._buffers.items()):
                if buffer.lines:
                    await self._write(rank, epoch, buffer)
                else:
                    del self._buffers[rank, epoch]

    async def _write(self, rank: int, epoch: int, buffer: _Buffer) -> None:
        lines, buffer.lines = buffer.lines, []
        if buffer.dropped:
            lines.insert(0, f"[{buffer.dropped} lines were dropped while the object store was away]")
            buffer.dropped = 0
        data = ("\n".join(lines) + "\n").encode()
        key = f"{self._prefix}/rank-{rank:05d}/e{epoch:06d}-{self._pod}-{self._written:06d}.log"
        try:
            await asyncio.to_thread(self._store.put, key, data)
        except (LonghaulError, OSError) as error:
            _log.warning("log chunk not written", key=key, error=str(error))
            buffer.lines = lines + buffer.lines
            return
        self._written += 1
        buffer.size = sum(len(line) + 1 for line in buffer.lines)
        self._report(
            agent_pb2.ConnectRequest(
                log_chunk=agent_pb2.LogChunk(rank=rank, epoch=epoch, key=key, lines=len(lines), size_bytes=len(data))
            )
        )
