"""Engine: CPU-heavy tasks on this machine's processes or on a Ray cluster."""

from collections.abc import Sequence
from typing import Protocol

from longhaul_core.engine.failures import WORKER_ENDED, RemoteTaskError, WorkerDied, WorkerMemoryExceeded
from longhaul_core.engine.local import LocalEngine
from longhaul_core.engine.progress import report
from longhaul_core.engine.protocol import Engine, OnProgress, Payload, Task

__all__ = [
    "WORKER_ENDED",
    "Engine",
    "LocalEngine",
    "OnProgress",
    "Payload",
    "RemoteTaskError",
    "Task",
    "WorkerDied",
    "WorkerMemoryExceeded",
    "open_engine",
    "report",
]


class EngineSettings(Protocol):
    """The settings an engine is made from; `ServiceSettings` has them."""

    @property
    def engine(self) -> str:
        """`local` or `ray`."""
        ...

    @property
    def resolved_workers(self) -> int:
        """Worker processes of the local engine."""
        ...

    @property
    def worker_memory_bytes(self) -> int:
        """What a task may hold; 0: no limit."""
        ...


def open_engine(settings: EngineSettings, *, preload: Sequence[str] = ()) -> Engine:
    """Return the engine that the settings name.

    A task may hold `worker_memory_bytes`; on Ray it also reserves them. Local workers import the modules of `preload`
    before their first task. For Ray, the cluster is the one that RAY_ADDRESS names, else one is started here.
    """
    if settings.engine == "ray":
        from longhaul_core.engine.ray_engine import RayEngine

        return RayEngine.connect(memory_bytes=settings.worker_memory_bytes)
    limit = settings.worker_memory_bytes or None
    return LocalEngine(settings.resolved_workers, preload=preload, memory_limit_bytes=limit)
