"""Jobs as Kubernetes writes them, read into the model."""

from __future__ import annotations

from longhaul_core.cluster.jobs import Job, JobPhase
from longhaul_core.cluster.kubernetes.api import Collection, Raw, Resource

BATCH = "batch/v1"
_ENDS = {"Complete": JobPhase.SUCCEEDED, "Failed": JobPhase.FAILED}


def jobs_in(namespace: str) -> Collection:
    """The Jobs of a namespace."""
    return Collection(Resource.JOBS, namespace, BATCH)


def parse_job(raw: Raw) -> Job:
    """Read a Job: it is over when one of its final conditions is true."""
    metadata = raw["metadata"]
    for condition in (raw.get("status") or {}).get("conditions") or ():
        if condition["type"] in _ENDS and condition["status"] == "True":
            message = f"{condition.get('reason') or ''}: {condition.get('message') or ''}".strip(": ")
            return Job(metadata["namespace"], metadata["name"], _ENDS[condition["type"]], message)
    return Job(metadata["namespace"], metadata["name"], JobPhase.RUNNING)
