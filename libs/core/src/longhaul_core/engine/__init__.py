"""Engine: CPU-heavy tasks on this machine's processes or on a Ray cluster."""

from collections.abc import Sequence
from typing import Protocol

from longhaul_core.engine.failures import RemoteTaskError, WorkerDied, WorkerMemoryExceeded
from longhaul_core.engine.local import LocalEngine
from longhaul_core.engine.progress import report
from longhaul_core.engine.protocol import Engine

__all__ = [
    "Engine",
    "LocalEngine",
    "RemoteTaskError",
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


def open_engine(settings: EngineSettings, *, preload: Sequence[str] = ()) -> Engine:
    """Return the engine that the settings name; `preload` lists modules that workers import before their first task."""
    return LocalEngine(settings.resolved_workers, preload=preload)
