"""The engine as the services see it: functions run elsewhere, one dict in, one dict out."""

import importlib
from collections.abc import Callable
from typing import Any, Protocol

from longhaul_core.errors import InvalidArgument

Payload = dict[str, Any]
Task = Callable[[Payload], Payload]
OnProgress = Callable[[Payload], None]


class Engine(Protocol):
    """Runs CPU-heavy tasks outside the event loop.

    A task gets and returns picklable dicts; bulk bytes go through files and the object store.
    """

    @property
    def capacity(self) -> int:
        """How many tasks run at the same time; further ones wait in order."""
        ...

    async def submit(self, task: Task, payload: Payload, *, on_progress: OnProgress | None = None) -> Payload:
        """Run `task(payload)` once and return its answer. Cancelling the caller kills the task.

        `on_progress` is called in the event loop with each dict that the task reports.

        Raises:
            RemoteTaskError: the task raised.
            WorkerDied: the process died under the task; whether to try again is the caller's decision.
            WorkerMemoryExceeded: the task was killed at the memory limit.
            InvalidArgument: the task is no top-level function of a module (TASK_NOT_IMPORTABLE), or the payload
                cannot be pickled (TASK_PAYLOAD_NOT_PICKLABLE).
            Cancelled: the engine was closed (ENGINE_CLOSED).
        """
        ...

    async def close(self) -> None:
        """Kill running tasks and end all workers."""
        ...


def task_path(task: Task) -> str:
    """Return `module:function` of a task. Raises InvalidArgument where a worker could not import it."""
    module, name = getattr(task, "__module__", ""), getattr(task, "__qualname__", "")
    if not name.isidentifier() or name == "<lambda>" or module in {"", "__main__"}:
        raise InvalidArgument(
            f"A worker cannot import the task {module}:{name}.",
            reason="TASK_NOT_IMPORTABLE",
            action="Make it a function at the top level of an importable module.",
        )
    return f"{module}:{name}"


def load_task(path: str) -> Task:
    """Import the function that `task_path` named."""
    module, _, name = path.partition(":")
    task: Task = getattr(importlib.import_module(module), name)
    return task
