"""An engine in which some work takes its worker down, as a document does that crashes a library."""

from __future__ import annotations

import os
import signal
from typing import Any

from longhaul_core.engine import Engine, OnProgress, Payload, Task


def die(payload: Payload) -> Payload:
    """End the worker as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("the worker lives")


class DeadlyEngine:
    """The engine `inner`, but for the work of one shard in one phase of some builds.

    `poison` maps the last part of a token set's name to the phase and the shard that kill. The shard is known by its
    place, which holds for the first attempt at a build: the next is without the shard.
    """

    def __init__(self, inner: Engine, poison: dict[str, tuple[str, int]]) -> None:
        self._inner = inner
        self._poison = poison
        self.kills = 0

    @property
    def capacity(self) -> int:
        return self._inner.capacity

    async def submit(self, task: Task, payload: Payload, *, on_progress: OnProgress | None = None) -> Payload:
        if self._is_deadly(payload):
            self.kills += 1
            task = die
        return await self._inner.submit(task, payload, on_progress=on_progress)

    async def close(self) -> None:
        await self._inner.close()

    def _is_deadly(self, payload: dict[str, Any]) -> bool:
        build = str(payload["context"]["name"]).rpartition("/")[2]
        phase, shard = self._poison.get(build, ("", -1))
        if payload["phase"] != phase or not str(payload["context"]["prefix"]).endswith("-1"):
            return False
        item = payload["item"]
        return bool(item["shard"] == shard and not item.get("lost"))
