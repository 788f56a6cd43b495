"""The nouns of a cluster: nodes, pods, marks and change hints.

They are the part of the Kubernetes model that longhaul uses, no more: a pod is created with a name, dies once and never
restarts; a node carries marks that its writers change by compare-and-set. Versions are opaque strings that can only be
compared for equality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

DEFAULT_NAMESPACE = "default"
DEFAULT_GRACE_SECONDS = 30.0


class TaintEffect(StrEnum):
    """What a taint does to pods that do not tolerate it; only `NO_SCHEDULE` is enforced by every implementation."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class ConditionStatus(StrEnum):
    """Tri-state of a node condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class PodPhase(StrEnum):
    """Phase of a pod; `UNKNOWN` means that its node does not answer, so that the pod may still run."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"

    @property
    def terminal(self) -> bool:
        """Whether a pod in this phase never runs again."""
        return self in (PodPhase.SUCCEEDED, PodPhase.FAILED)


class PodReason(StrEnum):
    """Reasons that the implementations of this package give; Kubernetes may add its own."""

    COMPLETED = "Completed"
    ERROR = "Error"
    START_ERROR = "StartError"
    OUT_OF_GPUS = "OutOfGpus"
    UNSCHEDULABLE = "Unschedulable"
    NODE_LOST = "NodeLost"
    NODE_SHUTDOWN = "NodeShutdown"
    PREEMPTED = "Preempted"
    EVICTED = "Evicted"
    OUT_OF_MEMORY = "OOMKilled"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    SECRET_MISSING = "SecretMissing"  # noqa: S105 (the name of a reason)
    CONTAINER_INVALID = "ContainerInvalid"
    MOUNT_FAILED = "MountFailed"
    GATED = "SchedulingGated"


DISRUPTIONS = frozenset({PodReason.PREEMPTED, PodReason.EVICTED, PodReason.NODE_SHUTDOWN})
"""Reasons for which somebody took the pod's place away; nothing failed."""


class EventKind(StrEnum):
    """What a hint is about; `RESYNC` tells the watcher to list again because hints may have been missed."""

    POD = "pod"
    NODE = "node"
    RESYNC = "resync"


@dataclass(frozen=True, slots=True)
class Taint:
    """A mark on a node that keeps pods away; identified by key and effect."""

    key: str
    value: str = ""
    effect: TaintEffect = TaintEffect.NO_SCHEDULE


@dataclass(frozen=True, slots=True)
class Toleration:
    """Lets a pod be scheduled in spite of a taint; an empty value tolerates any value, an empty key any taint."""

    key: str = ""
    value: str = ""

    def covers(self, taint: Taint) -> bool:
        """Whether `taint` is tolerated."""
        return self.key in ("", taint.key) and self.value in ("", taint.value)


@dataclass(frozen=True, slots=True)
class Condition:
    """An observation about a node, identified by its type."""

    type: str
    status: ConditionStatus
    reason: str = ""
    message: str = ""
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A machine with GPUs.

    `ready` is what the cluster observes now and no part of `resource_version`, which changes with every change of the
    marks. `silent_since` is when the cluster last began to hear nothing from the node; a node that is not ready but
    says so itself is not silent. `gpus_total` are the GPUs that can be given to pods, `gpus_unhealthy` those that the
    node has beside them.
    """

    name: str
    uid: str
    ready: bool
    gpus_total: int
    resource_version: str
    unschedulable: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    exporter_url: str = ""
    gpus_unhealthy: int = 0
    silent_since: datetime | None = None

    def condition(self, type_: str) -> Condition | None:
        """The condition of that type, if the node has one."""
        return next((condition for condition in self.conditions if condition.type == type_), None)

    def has_taint(self, key: str, effect: TaintEffect = TaintEffect.NO_SCHEDULE) -> bool:
        """Whether the node carries a taint of that key and effect."""
        return any(taint.key == key and taint.effect is effect for taint in self.taints)


@dataclass(frozen=True, slots=True)
class NodePatch:
    """Changes to a node's marks; what is left out stays. A value of None removes the label or annotation."""

    unschedulable: bool | None = None
    taints_add: tuple[Taint, ...] = ()
    taints_remove: tuple[Taint, ...] = ()
    labels: Mapping[str, str | None] = field(default_factory=dict)
    annotations: Mapping[str, str | None] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    conditions_remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Colocation:
    """Keeps pods that carry `labels` on nodes that agree on the value of the label `topology_key` (a rack, a block)."""

    topology_key: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PodOwner:
    """What stands for a run in the cluster: pods that name it go with it, even when nobody is left to delete them.

    `data` is for people who look at it there.
    """

    name: str
    namespace: str = DEFAULT_NAMESPACE
    labels: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gang:
    """Pods that start together or not at all, for schedulers that know gangs.

    `late`: the others have started, and this pod replaces one of them without waiting for any.
    """

    name: str
    size: int
    late: bool = False


@dataclass(frozen=True, slots=True)
class PodSpec:
    """What to run. The fields after `env` matter only where pods are containers, except tolerations and selector.

    `resources` are quantities beside the GPUs (`{"memory": "64Gi", "rdma/hca": "1"}`), requested and limited alike;
    `shared_memory_bytes` bounds /dev/shm, None leaves it to the pod's memory limit. `overlay` is a partial Kubernetes
    pod laid over the one that is made from the other fields. `field_env` are environment variables with the value of a
    field of the pod (`{"POD_IP": "status.podIP"}`), `secret_env` names Secrets whose keys become variables.
    `scratch_dir` is where a container finds room of its own; the operator's template may say what that room is.
    """

    name: str
    command: tuple[str, ...]
    namespace: str = DEFAULT_NAMESPACE
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    node: str | None = None
    gpus: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    tolerations: tuple[Toleration, ...] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    grace_seconds: float = DEFAULT_GRACE_SECONDS
    image: str = ""
    service_account: str = ""
    priority_class: str = ""
    overlay: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, str] = field(default_factory=dict)
    shared_memory_bytes: int | None = None
    pull_secrets: tuple[str, ...] = ()
    colocation: Colocation | None = None
    field_env: Mapping[str, str] = field(default_factory=dict)
    secret_env: tuple[str, ...] = ()
    scratch_dir: str = ""
    owner: PodOwner | None = None
    gang: Gang | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the cluster sees it now.

    `deletion_deadline` is when the grace of a requested deletion ends, where the cluster tells.
    """

    name: str
    uid: str
    namespace: str
    phase: PodPhase
    gpus: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    node: str | None = None
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    pod_ip: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deletion_requested: bool = False
    deletion_deadline: datetime | None = None

    @property
    def disrupted(self) -> bool:
        """Whether it was evicted, preempted or shut down with its node; that is no failure of what it ran."""
        return self.reason in DISRUPTIONS

    @property
    def holds_gpus(self) -> bool:
        """Whether its GPUs are taken; those of an unreachable pod are not free."""
        return self.gpus > 0 and self.node is not None and not self.phase.terminal


@dataclass(frozen=True, slots=True)
class ClusterEvent:
    """A hint that something changed: read the object again, it may have changed more than once or be gone."""

    kind: EventKind
    name: str = ""
    namespace: str = ""
