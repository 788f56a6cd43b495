"""Engine: CPU-heavy tasks on this machine's processes or on a Ray cluster."""

from collections.abc import Sequence
from typing import Protocol

from longhaul_core.engine.failures import RemoteTaskError, WorkerDied, WorkerMemoryExceeded
from longhaul_core.engine.local import LocalEngine
from longhaul_core.engine.progress import report
from longhaul_core.engine.protocol import Engine, OnProgress, Payload, Task

__all__ = [
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


def open_engine(
    settings: EngineSettings, *, preload: Sequence[str] = (), memory_limit_bytes: int | None = None
) -> Engine:
    """Return the engine that the settings name.

    A task may hold `memory_limit_bytes`; on Ray it also reserves them. Local workers import the modules of `preload`
    before their first task. For Ray, the cluster is the one that RAY_ADDRESS names, else one is started here.
    """
    if settings.engine == "ray":
        from longhaul_core.engine.ray_engine import RayEngine

        return RayEngine.connect(memory_bytes=memory_limit_bytes or 0)
    return LocalEngine(settings.resolved_workers, preload=preload, memory_limit_bytes=memory_limit_bytes)
