"""Pods as Kubernetes writes them, read into the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from longhaul_core.cluster.kubernetes.api import Raw
from longhaul_core.cluster.kubernetes.manifest import CONTAINER, bound_node, gpus_of
from longhaul_core.cluster.kubernetes.options import KubernetesOptions
from longhaul_core.cluster.kubernetes.quantities import timestamp
from longhaul_core.cluster.kubernetes.reasons import Ended, ended, waiting
from longhaul_core.cluster.model import Node, Pod, PodPhase


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A pod at one resource version of the API server; `pod.phase` is what its node last reported."""

    pod: Pod
    version: str
    held: bool = False
    """Whether finalizers keep the object after its deletion."""

    @property
    def key(self) -> tuple[str, str]:
        """Place in a store."""
        return self.pod.namespace, self.pod.name

    @property
    def uid(self) -> str:
        """Identity of the object."""
        return self.pod.uid


def parse_pod(raw: Raw, options: KubernetesOptions) -> PodRecord:
    """Read a pod."""
    metadata, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
    end = ended(raw, options.gpu_resource)
    phase = end.phase if end is not None else PodPhase(status.get("phase") or PodPhase.PENDING)
    reason, message = (end.reason, end.message) if end is not None else waiting(raw)
    deletion = metadata.get("deletionTimestamp")
    pod = Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        phase=phase,
        gpus=gpus_of(spec, options.gpu_resource),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        node=bound_node(spec),
        reason=reason,
        message=message,
        exit_code=end.exit_code if end is not None else None,
        pod_ip=(status.get("podIP") or "") if not phase.terminal else "",
        created_at=timestamp(metadata.get("creationTimestamp")),
        started_at=_started(raw),
        finished_at=_finished(raw, end),
        deletion_requested=deletion is not None,
        deletion_deadline=timestamp(deletion),
    )
    return PodRecord(pod, metadata["resourceVersion"], held=bool(metadata.get("finalizers")))


def observed(pod: Pod, node: Node | None) -> Pod:
    """The pod as callers see it: what runs on a node that is silent or no longer there is unknown."""
    if pod.phase is PodPhase.RUNNING and (node is None or node.silent_since is not None):
        return replace(pod, phase=PodPhase.UNKNOWN)
    return pod


def _main_state(raw: Raw) -> Raw:
    statuses = (raw.get("status") or {}).get("containerStatuses") or ()
    return next((item.get("state") or {} for item in statuses if item["name"] == CONTAINER), {})


def _started(raw: Raw) -> datetime | None:
    state = _main_state(raw)
    since = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    return timestamp(since)


def _finished(raw: Raw, end: Ended | None) -> datetime | None:
    """A pod that was refused or evicted has no ended container: then its last transition tells."""
    if end is None:
        return None
    if finished := timestamp((_main_state(raw).get("terminated") or {}).get("finishedAt")):
        return finished
    conditions = (raw.get("status") or {}).get("conditions") or ()
    moments = [timestamp(item.get("lastTransitionTime")) for item in conditions]
    known = [moment for moment in moments if moment is not None]
    return max(known, default=timestamp(raw["metadata"].get("creationTimestamp")))
