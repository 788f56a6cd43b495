"""Durable records of the local cluster and their JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import TypeAdapter

from longhaul_core.cluster.model import Condition, Node, Pod, PodPhase, PodReason, PodSpec, Taint

LOCAL_POD_IP = "127.0.0.1"
PID_ANNOTATION = "longhaul.dev/local-pid"


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node without its liveness."""

    name: str
    uid: str
    gpus_total: int
    version: int = 1
    unschedulable: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    exporter_url: str = ""

    def observed(self, *, ready: bool, silent_since: datetime | None = None) -> Node:
        """The node as callers see it."""
        return Node(
            name=self.name,
            uid=self.uid,
            ready=ready,
            gpus_total=self.gpus_total,
            resource_version=str(self.version),
            unschedulable=self.unschedulable,
            labels=self.labels,
            taints=self.taints,
            annotations=self.annotations,
            conditions=self.conditions,
            exporter_url=self.exporter_url,
            silent_since=silent_since,
        )


@dataclass(frozen=True, slots=True)
class PodRecord:
    """What the creator of a pod asked for."""

    uid: str
    created_at: datetime
    spec: PodSpec


@dataclass(frozen=True, slots=True)
class PodStatus:
    """What the pod's node says about it."""

    phase: PodPhase = PodPhase.PENDING
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    pid: int | None = None
    gpu_indices: tuple[int, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Deletion:
    """A request to end a pod."""

    requested_at: datetime
    grace_seconds: float


@dataclass(frozen=True, slots=True)
class StoredPod:
    """Everything that lies in a pod's folder."""

    record: PodRecord
    node: str | None
    status: PodStatus
    deletion: Deletion | None

    def observed(self, *, node_ready: bool) -> Pod:
        """The pod as callers see it; what runs on a node that does not answer is unknown."""
        spec, status = self.record.spec, self.status
        running = status.phase is PodPhase.RUNNING
        unbound = self.node is None and status.phase is PodPhase.PENDING
        annotations = dict(spec.annotations)
        if running and status.pid is not None:
            annotations[PID_ANNOTATION] = str(status.pid)
        return Pod(
            name=spec.name,
            uid=self.record.uid,
            namespace=spec.namespace,
            phase=PodPhase.UNKNOWN if running and not node_ready else status.phase,
            gpus=spec.gpus,
            labels=spec.labels,
            annotations=annotations,
            node=self.node,
            reason=PodReason.UNSCHEDULABLE if unbound else status.reason,
            message=f"no ready node has {spec.gpus} free GPUs and fits" if unbound else status.message,
            exit_code=status.exit_code,
            pod_ip=LOCAL_POD_IP if running else "",
            created_at=self.record.created_at,
            started_at=status.started_at,
            finished_at=status.finished_at,
            deletion_requested=self.deletion is not None,
        )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a node process listens."""

    port: int
    token: str
    pid: int


NODE_RECORD = TypeAdapter(NodeRecord)
POD_RECORD = TypeAdapter(PodRecord)
POD_STATUS = TypeAdapter(PodStatus)
DELETION = TypeAdapter(Deletion)
ENDPOINT = TypeAdapter(Endpoint)
