"""Where pods run: a Protocol with an implementation of local processes and one in memory."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from longhaul_core.clock import Clock, SystemClock
from longhaul_core.cluster.fake import FakeCluster
from longhaul_core.cluster.jobs import Job, JobCluster, JobPhase
from longhaul_core.cluster.local.client import LocalCluster
from longhaul_core.cluster.model import (
    DEFAULT_NAMESPACE,
    DISRUPTIONS,
    ClusterEvent,
    Colocation,
    Condition,
    ConditionStatus,
    EventKind,
    Gang,
    Node,
    NodePatch,
    Pod,
    PodOwner,
    PodPhase,
    PodReason,
    PodSpec,
    Taint,
    TaintEffect,
    Toleration,
)
from longhaul_core.cluster.protocol import Cluster
from longhaul_core.errors import InvalidArgument

__all__ = [
    "DEFAULT_NAMESPACE",
    "DISRUPTIONS",
    "Cluster",
    "ClusterEvent",
    "Colocation",
    "Condition",
    "ConditionStatus",
    "EventKind",
    "FakeCluster",
    "Gang",
    "Job",
    "JobCluster",
    "JobPhase",
    "LocalCluster",
    "Node",
    "NodePatch",
    "Pod",
    "PodOwner",
    "PodPhase",
    "PodReason",
    "PodSpec",
    "Taint",
    "TaintEffect",
    "Toleration",
    "open_cluster",
]


def open_cluster(url: str, clock: Clock | None = None) -> Cluster:
    """Open the cluster at `local://<folder>` or `kubernetes://?key=value` (keys: `KubernetesOptions`).

    Raises `InvalidArgument` for any other URL.
    """
    parts = urlsplit(url)
    if parts.scheme == "kubernetes":
        from longhaul_core.cluster.kubernetes import KubernetesCluster, parse_url  # an extra, and slow to import

        return KubernetesCluster.open(parse_url(url), clock or SystemClock())
    if parts.scheme != "local" or not (path := parts.netloc + parts.path):
        problem = f"{url!r} is neither local://<folder> nor kubernetes://?key=value"
        raise InvalidArgument(
            f"cluster URL {problem}", reason="CLUSTER_URL_UNKNOWN", violations=[("cluster_url", problem)]
        )
    return LocalCluster.open(Path(path), clock or SystemClock())
