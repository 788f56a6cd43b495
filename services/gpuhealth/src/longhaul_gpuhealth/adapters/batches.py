"""Changes of many nodes at once share transactions: a burst costs a few commits, not one a node."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from longhaul_gpuhealth.adapters.records import NodeRecords, RecordChange, StoredNode

MAXIMUM_BATCH = 256


@dataclass(slots=True)
class ChangeBatches:
    """Writes what is asked for while a commit is under way together with the next one."""

    records: NodeRecords
    _waiting: list[tuple[RecordChange, asyncio.Future[StoredNode]]] = field(default_factory=list)
    _writing: asyncio.Task[None] | None = None

    async def change(self, change: RecordChange) -> StoredNode:
        """See `NodeRecords.change`."""
        future: asyncio.Future[StoredNode] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="write records")
        return await future

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAXIMUM_BATCH], self._waiting[MAXIMUM_BATCH:]
            outcomes: list[StoredNode | Exception]
            try:
                outcomes = await self.records.change_many([change for change, _ in batch])
            except Exception as error:  # goes to each of those who wait for it
                outcomes = [error for _ in batch]
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
