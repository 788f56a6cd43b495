"""Brings tasks forward in one look."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from longhaul_core.clock import Clock
from longhaul_core.errors import Aborted

from longhaul_training.adapters.controller_parts import CHANGES_A_LOOK, Parts
from longhaul_training.adapters.leadership import is_stale
from longhaul_training.adapters.look import Look
from longhaul_training.adapters.mirror import Mirror
from longhaul_training.adapters.task_store import StoredTask
from longhaul_training.domain.tasks import TaskAct, TaskWorld, decide_task


class TaskSettling:
    """Decides about tasks, writes their records and starts what follows from them."""

    def __init__(self, clock: Clock, parts: Parts, wake: Callable[[], None], mirror: Mirror[StoredTask]) -> None:
        self._clock = clock
        self._parts = parts
        self._wake = wake
        self._mirror = mirror

    async def settle(self, tasks: Iterable[StoredTask], look: Look, term: int) -> None:
        """Brings all tasks forward, in the order given."""
        for task in tasks:
            await self._settle(task, look, term)

    async def _settle(self, stored: StoredTask, look: Look, term: int) -> None:
        for _ in range(CHANGES_A_LOOK):
            task = stored.task
            world = TaskWorld(
                now=self._clock.now().timestamp(),
                pods=look.cluster.pods_of(task.uid),
                nodes=look.nodes,
                capacity=look.capacity(),
                free=look.free(),
                refusals=self._parts.executor.refusals,
            )
            decision = decide_task(task, world)
            if isinstance(decision, TaskAct):
                for action in decision.actions:
                    self._parts.executor.for_task(stored, action, look.namespace(task.project, action))
                return
            try:
                written = await self._parts.tasks.commit(stored, decision.control, decision.events, term)
            except Aborted as error:
                if is_stale(error):
                    raise
                self._wake()
                return
            stored = self._mirror.put(written.row)
            look.note_task(stored)
