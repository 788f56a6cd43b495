"""Jobs of a cluster, for work that must come to its end on a machine that may go down meanwhile.

Only Kubernetes has them; elsewhere a pod does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable


class JobPhase(StrEnum):
    """How far a Job is."""

    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Job:
    """A Job as it was last seen; `message` says why it failed."""

    namespace: str
    name: str
    phase: JobPhase
    message: str = ""


@runtime_checkable
class JobCluster(Protocol):
    """A cluster that runs Jobs; what is written as one is checked by the cluster."""

    async def create_job(self, namespace: str, manifest: Mapping[str, Any]) -> None:
        """Store a `batch/v1` Job. Raises `AlreadyExists` by its name, `InvalidArgument`, `PermissionDenied`."""
        ...

    async def get_job(self, namespace: str, name: str) -> Job:
        """Look at one. Raises `NotFound`."""
        ...
