"""Why a pod waits or ended, from the places in which Kubernetes says so.

In order of authority: the exit of the main container, the disruption that took the pod's place, the refusal of the
node, the phase. A disrupted pod keeps its exit code but not its blame.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from longhaul_core.cluster.kubernetes.api import Raw
from longhaul_core.cluster.kubernetes.manifest import CONTAINER
from longhaul_core.cluster.model import PodPhase, PodReason

_DISRUPTIONS: Mapping[str, PodReason] = {
    "PreemptionByScheduler": PodReason.PREEMPTED,
    "EvictionByEvictionAPI": PodReason.EVICTED,
    "DeletionByTaintManager": PodReason.EVICTED,
    "DeletionByPodGC": PodReason.NODE_LOST,
}
"""Reasons of the condition DisruptionTarget; TerminationByKubelet is told apart by the pod's own reason."""

_KUBELET: Mapping[str, PodReason] = {
    "Evicted": PodReason.EVICTED,
    "Preempting": PodReason.PREEMPTED,
    "Terminated": PodReason.NODE_SHUTDOWN,
    "Shutdown": PodReason.NODE_SHUTDOWN,
    "NodeShutdown": PodReason.NODE_SHUTDOWN,
    "NodeLost": PodReason.NODE_LOST,
}
"""Values of `status.reason`."""

_CONTAINER: Mapping[str, PodReason] = {
    "OOMKilled": PodReason.OUT_OF_MEMORY,
    "ContainerStatusUnknown": PodReason.NODE_LOST,
    "StartError": PodReason.START_ERROR,
    "ContainerCannotRun": PodReason.START_ERROR,
}
"""Reasons of a terminated container that are more than Completed and Error."""

_WAITING: Mapping[str, PodReason] = {
    **dict.fromkeys(
        (
            "ErrImagePull",
            "ImagePullBackOff",
            "InvalidImageName",
            "ErrImageNeverPull",
            "ImageInspectError",
            "RegistryUnavailable",
            "SignatureValidationFailed",
        ),
        PodReason.IMAGE_UNAVAILABLE,
    ),
    "CreateContainerConfigError": PodReason.CONTAINER_INVALID,
    "CreateContainerError": PodReason.START_ERROR,
    "RunContainerError": PodReason.START_ERROR,
}
"""Reasons of a waiting container that will not go away by waiting."""

MISSING_REFERENCE = re.compile(r'(secret|configmap) "[^"]+" not found')
"""How the kubelet names a Secret or ConfigMap that a pod needs and that is not there."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a pod."""

    phase: PodPhase
    reason: str
    message: str
    exit_code: int | None


def ended(raw: Raw, gpu_resource: str) -> Ended | None:
    """How the pod ended; None while it has not. Injected sidecars that run on do not keep it alive."""
    status = raw.get("status") or {}
    exit_ = (_main(raw).get("state") or {}).get("terminated")
    if exit_ is not None:
        return _exited(raw, exit_)
    if status.get("phase") == PodPhase.SUCCEEDED:
        return Ended(PodPhase.SUCCEEDED, PodReason.COMPLETED, "", None)
    if status.get("phase") != PodPhase.FAILED:
        return None
    return Ended(PodPhase.FAILED, _refusal(raw, gpu_resource), status.get("message") or "", None)


def waiting(raw: Raw) -> tuple[str, str]:
    """Reason and message of a pod that has not ended; both empty while all goes well."""
    if (disruption := _disruption(raw)) is not None:
        return disruption
    status = raw.get("status") or {}
    if status.get("phase", PodPhase.PENDING) != PodPhase.PENDING:
        return "", ""
    if not raw["spec"].get("nodeName"):
        scheduled = _conditions(raw).get("PodScheduled") or {}
        return scheduled.get("reason") or "", scheduled.get("message") or ""
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = (container.get("state") or {}).get("waiting") or {}
        if (reason := _WAITING.get(state.get("reason") or "")) is not None:
            message = state.get("message") or state["reason"]
            return (PodReason.SECRET_MISSING if MISSING_REFERENCE.search(message) else reason), message
    return "", ""


def _exited(raw: Raw, exit_: Raw) -> Ended:
    code = int(exit_["exitCode"])
    if code == 0:
        return Ended(PodPhase.SUCCEEDED, PodReason.COMPLETED, exit_.get("message") or "", 0)
    known = _CONTAINER.get(exit_.get("reason") or "")
    if known is PodReason.NODE_LOST:
        return Ended(PodPhase.FAILED, known, exit_.get("message") or "", None)
    if (disruption := _disruption(raw)) is not None:
        return Ended(PodPhase.FAILED, disruption[0], disruption[1], code)
    return Ended(PodPhase.FAILED, known or PodReason.ERROR, exit_.get("message") or "", code)


def _refusal(raw: Raw, gpu_resource: str) -> str:
    """The reason of a pod that failed without a container that ended."""
    if (disruption := _disruption(raw)) is not None:
        return disruption[0]
    status = raw.get("status") or {}
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    if reason == f"OutOf{gpu_resource}" or (reason == "UnexpectedAdmissionError" and gpu_resource in message):
        return PodReason.OUT_OF_GPUS
    return reason or PodReason.ERROR


def _disruption(raw: Raw) -> tuple[str, str] | None:
    """Who took the pod's place, and in which words."""
    status = raw.get("status") or {}
    conditions = _conditions(raw)
    target = conditions.get("DisruptionTarget")
    own = _KUBELET.get(str(status.get("reason") or ""))
    if target is not None:
        reason = _DISRUPTIONS.get(target.get("reason") or "") or own or PodReason.EVICTED
        return reason, str(target.get("message") or status.get("message") or "")
    if (kueue := conditions.get("TerminationTarget")) is not None:
        return PodReason.PREEMPTED, str(kueue.get("message") or "")
    return (own, str(status.get("message") or "")) if own is not None else None


def _conditions(raw: Raw) -> dict[str, Raw]:
    """Conditions by type; only those that tell something: true ones, and PodScheduled."""
    items = (raw.get("status") or {}).get("conditions") or ()
    return {item["type"]: item for item in items if item["status"] == "True" or item["type"] == "PodScheduled"}


def _main(raw: Raw) -> Raw:
    statuses: list[Raw] = (raw.get("status") or {}).get("containerStatuses") or []
    return next((item for item in statuses if item["name"] == CONTAINER), {})
